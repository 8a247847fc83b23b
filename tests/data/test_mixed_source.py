"""Several sources mixed by weight: the rows of each in a batch, and their order."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.data.conftest import grey_image, write_image
from tests.data.kinds import SEED, GreyView, make_source, plain_decoding
from tests.data.records import write_greys
from tests.support.marks import usual
from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import (
    BatchPlan,
    DataService,
    MixedSource,
    available_splits,
    load_eval_source,
    load_source,
    load_training_source,
    train_dataset,
)
from tf_simclr.data.mixed_source import row_order, share_out

SIZES = {"array": 20, "encoded": 12, "stream": 16}
FIRSTS = (0, 20, 32)
STEP = 50  # Between the grey values of two sources.
PLAN = BatchPlan(global_batch_size=10)
WEIGHTS = (0.5, 0.2, 0.3)


def make_mixed(directory, weights=WEIGHTS, bad=()):
    return MixedSource(
        [
            make_source(kind, size, directory, bad if kind == "encoded" else (), first_grey=STEP * number)
            for number, (kind, size) in enumerate(SIZES.items())
        ],
        weights,
    )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return make_mixed(tmp_path_factory.mktemp("mixed"))


def rows(source, count, *, plan=PLAN, first_step=0):
    """Positions and keys of the first rows."""
    found = source.train_examples(SEED, plan, first_step).take(count).as_numpy_iterator()
    return np.array([(row["position"], row["keys"][0]) for row in found])


def owners(keys):
    """The number of the source that each key belongs to."""
    return np.searchsorted(np.cumsum(list(SIZES.values())), keys, side="right")


def greys(batches):
    return np.concatenate([batch["views"][0] for batch in batches])[:, 0, 0, 0].astype(int).reshape(-1, 10)


# ---- How many rows of each


@pytest.mark.parametrize(
    ("weights", "count", "expected"),
    [
        ([0.7, 0.3], 32, [22, 10]),
        ([7, 3], 32, [22, 10]),
        ([1, 1, 1], 10, [4, 3, 3]),
        ([0.98, 0.01, 0.01], 10, [8, 1, 1]),
        ([5, 1e-9, 5], 9, [4, 1, 4]),
        ([1, 1000], 2, [1, 1]),
        ([0.1, 0.2, 0.3, 0.4], 10, [1, 2, 3, 4]),
    ],
)
def test_share_out_by_largest_remainder_and_none_without(weights, count, expected):
    assert share_out(weights, count) == expected


def test_share_out_misses_no_share_by_a_row():
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights = rng.uniform(0.5, 2, rng.integers(2, 6))
        count = int(rng.integers(10, 100))
        rows = share_out(weights, count)
        assert sum(rows) == count
        assert np.abs(np.array(rows) - weights / weights.sum() * count).max() < 1


@pytest.mark.parametrize("rows", [(22, 10), (1, 1, 30), (8, 8), (5, 3, 2)])
def test_rows_of_each_source_are_spread_over_the_batch(rows):
    order = row_order(rows)
    assert np.bincount(order).tolist() == list(rows)
    for number, count in enumerate(rows):
        seen = np.cumsum(order == number)
        even = count / sum(rows) * np.arange(1, sum(rows) + 1)
        assert np.abs(seen - even).max() <= 1


def test_weights_not_given_are_the_numbers_of_images(tmp_path):
    assert make_mixed(tmp_path, weights=None).num_rows(12) == [5, 3, 4]


# ---- Order


@pytest.fixture(scope="module")
def whole(mixed):
    """The rows of 24 batches."""
    return rows(mixed, 240)


def test_each_source_is_seen_whole_in_epochs_of_its_own(whole):
    positions, keys = whole.T
    assert len(set(positions)) == 240  # No two rows share random numbers.
    np.testing.assert_array_equal(owners(keys).reshape(-1, 10), [row_order([5, 2, 3])] * 24)
    for number, (kind, size) in enumerate(SIZES.items()):
        own = keys[owners(keys) == number] - FIRSTS[number]
        epochs = own[: len(own) // size * size].reshape(-1, size)
        np.testing.assert_array_equal(np.sort(epochs, axis=1), [range(size)] * len(epochs))
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs) > 1, kind


@pytest.mark.slow
@pytest.mark.parametrize("first_step", usual(5, also=[1, 11]))
def test_resumed_run_sees_the_rows_of_one_that_was_not(tmp_path, whole, first_step):
    again = rows(make_mixed(tmp_path), 30, first_step=first_step)
    np.testing.assert_array_equal(again, whole[10 * first_step : 10 * first_step + 30])


@pytest.mark.slow
@pytest.mark.parametrize("num_replicas", usual(5, also=[2]))
def test_replicas_get_the_rows_of_one_replica(mixed, whole, num_replicas):
    """Even if they cannot share the rows of each source evenly: 5, 2 and 3 of 10."""
    plan = BatchPlan(global_batch_size=10, num_replicas=num_replicas, total_replicas=num_replicas)
    np.testing.assert_array_equal(rows(mixed, 40, plan=plan), whole[:40])


@pytest.mark.slow
def test_workers_get_the_rows_of_one_worker(mixed):
    source = MixedSource(mixed.sources[:2], [0.8, 0.2])
    together = rows(source, 60, plan=BatchPlan(global_batch_size=20)).reshape(3, 20, 2)
    plans = [BatchPlan(global_batch_size=20, num_replicas=2, first_replica=n, total_replicas=4) for n in (0, 2)]
    parts = np.concatenate([rows(source, 30, plan=plan).reshape(3, 10, 2) for plan in plans], axis=1)
    for step in range(3):
        assert sorted(map(tuple, parts[step])) == sorted(map(tuple, together[step]))


@pytest.mark.slow
def test_workers_read_their_parts_of_records(mixed):
    source = MixedSource(mixed.sources[1:], [0.4, 0.6])
    for worker, share in enumerate((range(8), range(8, 16))):
        plan = BatchPlan(global_batch_size=20, first_replica=worker, total_replicas=2)
        _, keys = rows(source, 20, plan=plan).T
        assert set(keys[keys >= 12] - 12) == set(share)


def test_workers_that_cannot_share_the_rows_are_refused(mixed):
    plan = BatchPlan(global_batch_size=10, first_replica=1, total_replicas=2)
    message = r"--mix: 5, 2, 3 images of each source in a batch of 10 cannot be shared out evenly over 2 workers; use "
    with pytest.raises(UserError, match=rf"^{message}--mix=6,2,2\.$"):
        mixed.train_examples(SEED, plan, 0)
    with pytest.raises(UserError, match=r"use --mix=2,2,2 --train_batch_size=6\.$"):
        plan = BatchPlan(global_batch_size=4, first_replica=1, total_replicas=2)
        MixedSource(mixed.sources).train_examples(SEED, plan, 0)


@pytest.mark.slow
def test_batches_show_the_rows_and_replace_an_unreadable_image_by_one_of_its_source(tmp_path):
    source = make_mixed(tmp_path, bad=(3, 7))
    assert (source.num_examples, source.num_classes) == (48, None)
    with plain_decoding():
        batches = train_dataset(source, GreyView(), plan=PLAN, seed=SEED, num_views=1)
    assert set(batches.element_spec) == {"views", "bad_images"}
    parts = list(batches.take(6).as_numpy_iterator())
    found = greys(parts)
    np.testing.assert_array_equal(found // STEP, [row_order([5, 2, 3])] * 6)
    _, keys = rows(source, 60).T
    bad = np.isin(keys, (FIRSTS[1] + 3, FIRSTS[1] + 7))
    shown = (found % STEP + np.array(FIRSTS)[found // STEP]).ravel()
    np.testing.assert_array_equal(shown == keys, ~bad)
    assert sum(part["bad_images"] for part in parts) == bad.sum() == 2
    assert set(source.bad_image_names()) == {"3", "7"}
    assert source.example_name(20 + 12 + 2) == source.sources[2].example_name(2)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_data_service_makes_batches_of_the_same_shares(tmp_path):
    servers = tf.data.experimental.service
    dispatcher = servers.DispatchServer(servers.DispatcherConfig(port=0))
    address = dispatcher.target.partition("://")[2]
    workers = [servers.WorkerServer(servers.WorkerConfig(address, port=0)) for _ in range(2)]
    service = DataService(dispatcher.target, "mixed")
    with plain_decoding():
        batches = train_dataset(make_mixed(tmp_path), GreyView(), plan=PLAN, seed=SEED, service=service)
    found = greys(itertools.islice(batches.as_numpy_iterator(), 24))
    np.testing.assert_array_equal(found // STEP, [row_order([5, 2, 3])] * 24)
    for number, size in enumerate(SIZES.values()):
        assert set(found[found // STEP == number] % STEP) == set(range(size))
    del workers


# ---- Names of several data sets


@pytest.fixture
def two(tmp_path):
    for number in range(8):
        write_image(tmp_path / "a" / f"{number}.png", grey_image(number))
    write_greys(tmp_path / "b", range(20, 36))
    write_greys(tmp_path / "b", range(4), split="test")
    return f"folder:{tmp_path}/a,tfrecord:{tmp_path}/b"


def test_data_sets_named_together_are_mixed(two):
    source = load_training_source(DataConfig(dataset=two, mix="0.25,0.75"))
    assert (source.num_examples, source.num_rows(8), source.class_names) == (24, [2, 6], None)
    assert load_training_source(DataConfig(dataset=two)).num_rows(9) == [3, 6]
    assert load_training_source(DataConfig(dataset=f"digits,{two}")).num_examples == 1347 + 24


def test_several_data_sets_are_evaluated_on_the_first(two):
    first, second = two.split(",")
    assert load_eval_source(DataConfig(dataset=two)) is None
    source = load_eval_source(DataConfig(dataset=f"{second},{first}", mix="1,2"))
    assert (source.name, source.num_examples) == (f"{second} (test)", 4)


def test_real_shares_are_shown_if_they_differ(two):
    source = load_training_source(DataConfig(dataset=two, mix="0.7,0.3"))
    first, second = (f"{name} (train)" for name in two.split(","))
    start = "Several sources, without their labels: "
    assert source.describe_batch(10) == [f"{start}7 of {first}, 3 of {second} in a batch of 10."]
    assert source.describe_batch(32) == [
        f"{start}22 of {first}, 10 of {second} in a batch of 32 (shares of 0.6875, 0.3125, for 0.7, 0.3)."
    ]


def test_batch_without_a_place_for_each_source_is_refused(mixed):
    message = r"^--train_batch_size=2: has no place for an image of each of the 3 sources of --dataset; use a larger"
    with pytest.raises(UserError, match=message):
        mixed.describe_batch(2)


def test_several_data_sets_are_refused_if_one_is_needed(two):
    for use in (lambda data: load_source(data, "train"), available_splits):
        with pytest.raises(UserError, match=r"^--dataset=folder:.*: several sources are mixed for .*; name one"):
            use(DataConfig(dataset=two))


def test_split_that_one_of_them_lacks_is_refused(two):
    with pytest.raises(UserError, match=r"^--train_split=test: folder:.*/a has the split\(s\) train; use one"):
        load_training_source(DataConfig(dataset=two, train_split="test"))


@pytest.mark.parametrize(
    ("dataset", "sources"),
    [
        ("digits", ("digits",)),
        ("folder:/a,b", ("folder:/a,b",)),
        ("folder:/a,b,tfrecord:c,d/*", ("folder:/a,b", "tfrecord:c,d/*")),
        ("digits,cifar10,folder:x,folder:y", ("digits", "cifar10", "folder:x", "folder:y")),
    ],
)
def test_commas_in_paths_are_no_separators(dataset, sources):
    assert DataConfig(dataset=dataset).sources == sources


def test_folder_with_a_comma(tmp_path):
    write_image(tmp_path / "a,b" / "0.png", grey_image(0))
    assert load_source(DataConfig(dataset=f"folder:{tmp_path}/a,b"), "train").num_examples == 1
    with pytest.raises(UserError, match=r"there is no folder .*/a,digits; if it is several sources, put those wit"):
        load_source(DataConfig(dataset=f"folder:{tmp_path}/a,digits"), "train")
