"""Several workers: who makes which rows of a batch, from which records."""

import itertools

import numpy as np
import pytest

from tests.data.kinds import KINDS, RANDOM_ACCESS, SEED, BlankView, DrawsView, make_source, positions_of
from tests.support.marks import usual
from tf_simclr.config import UserError
from tf_simclr.data import ArraySource, BatchPlan, eval_dataset, mix_labelled, train_dataset

NUM_EXAMPLES = 23
BATCH_SIZE = 12


def plans(num_workers, num_replicas=2, batch_size=BATCH_SIZE):
    """The plan of each worker."""
    total = num_workers * num_replicas
    return [
        BatchPlan(global_batch_size=batch_size, num_replicas=num_replicas, first_replica=first, total_replicas=total)
        for first in range(0, total, num_replicas)
    ]


def steps(source, plan, count, first_step=0):
    """The rows of this worker: labels [steps, rows] and the first view [steps, rows, 1, 1, 3]."""
    dataset = train_dataset(source, DrawsView(), plan=plan, seed=SEED, first_step=first_step)
    parts = list(dataset.take(count * plan.num_replicas).as_numpy_iterator())
    labels = np.concatenate([part["labels"] for part in parts]).reshape(count, -1)
    return labels, np.concatenate([part["views"][0] for part in parts]).reshape(count, -1, 1, 1, 3)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return {kind: make_source(kind, NUM_EXAMPLES, tmp_path_factory.mktemp("records")) for kind in KINDS}


@pytest.mark.slow
@pytest.mark.parametrize("kind", usual("array", also=["encoded"]))
def test_workers_see_the_global_batches_of_one_worker(sources, kind):
    source = sources[kind]
    whole = steps(source, BatchPlan(global_batch_size=BATCH_SIZE), 8)
    for num_workers, first_step in ((2, 0), (3, 5)):
        parts = [steps(source, plan, 3, first_step) for plan in plans(num_workers)]
        for joined, expected in zip(zip(*parts, strict=True), whole, strict=True):
            np.testing.assert_array_equal(np.concatenate(joined, axis=1), expected[first_step : first_step + 3])


@pytest.mark.slow
def test_batch_of_a_replica_may_hold_several_epochs():
    source = make_source("array", 2)
    labels, views = steps(source, plans(2, num_replicas=1)[1], 5)
    one_by_one, _ = steps(source, BatchPlan(global_batch_size=1), 60)
    np.testing.assert_array_equal(labels, one_by_one.reshape(5, 12)[:, 6:])
    np.testing.assert_array_equal(positions_of(views), np.arange(60).reshape(5, 12)[:, 6:].ravel())


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", usual(2, also=[1, 3]))
def test_stream_workers_read_a_part_each_once_an_epoch(sources, num_workers):
    source, num_steps, seen = sources["stream"], 24, []
    for plan in plans(num_workers):
        start, stop = plan.share(NUM_EXAMPLES)
        labels, views = steps(source, plan, num_steps)
        size = stop - start
        epochs = labels.ravel()[: labels.size // size * size].reshape(-1, size)
        np.testing.assert_array_equal(np.sort(epochs, axis=1), [range(start, stop)] * len(epochs))
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs) > 2
        seen.extend(epochs[0])
        rows = plan.first_replica * plan.per_replica_batch_size + np.arange(plan.local_batch_size)
        expected = np.arange(num_steps)[:, np.newaxis] * BATCH_SIZE + rows
        found = positions_of(views)
        np.testing.assert_array_equal(found, expected.ravel())
        for received, whole in zip(steps(source, plan, 3, first_step=7), (labels, views), strict=True):
            np.testing.assert_array_equal(received, whole[7:10])
    assert sorted(seen) == list(range(NUM_EXAMPLES))


@pytest.mark.slow
def test_stream_worker_opens_no_files_of_others(tmp_path):
    source = make_source("stream", NUM_EXAMPLES, tmp_path)
    max(tmp_path.iterdir(), key=lambda path: int(path.stem.partition("-")[2])).unlink()
    labels, _ = steps(source, plans(2)[0], 1)
    assert labels.max() <= NUM_EXAMPLES // 2


@pytest.mark.slow
def test_stream_over_workers_is_announced_once(sources, tmp_path, log):
    source = make_source("stream", NUM_EXAMPLES, tmp_path)
    source.train_examples(SEED, plans(1)[0], 0)
    sources["encoded"].train_examples(SEED, plans(3)[0], 0)
    assert log.messages == []
    source.train_examples(SEED, plans(3)[0], 0)
    source.train_examples(SEED, plans(3)[0], 7)
    assert log.messages == [
        "Each of the 3 workers reads a part of the records of some: which images share a batch depends on the "
        "number of workers."
    ]


def test_stream_with_fewer_records_than_workers_is_refused(tmp_path):
    source = make_source("stream", 2, tmp_path)
    message = (
        r"^--cache_dataset=False: some has only 2 records for 3 workers to share; use --cache_dataset=True, "
        r"or fewer workers\.$"
    )
    with pytest.raises(UserError, match=message):
        source.train_examples(SEED, plans(3)[2], 0)


@pytest.mark.slow
def test_mixed_batches_of_workers_hold_the_rows_of_both_kinds(sources):
    few = make_source("array", 4)
    whole, _ = steps(few, BatchPlan(global_batch_size=6), 3)
    unlabelled = train_dataset(sources["stream"], DrawsView(), plan=plans(3, 1)[2], seed=SEED)
    labelled = train_dataset(few, DrawsView(), plan=plans(3, 1, batch_size=6)[2], seed=SEED)
    for step, batch in enumerate(mix_labelled(unlabelled, labelled).take(3).as_numpy_iterator()):
        np.testing.assert_array_equal(batch["labels"], [-1] * 4 + list(whole[step, 4:]))


# ---- Evaluation: every example once

SIZES = (1, 2, 5, 12, 13)
SHARINGS = ((1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (3, 2))  # Replicas of a worker, workers.


@pytest.mark.slow
@pytest.mark.parametrize("kind", usual(*RANDOM_ACCESS, also=["stream"]))
def test_evaluation_has_each_example_once(kind, tmp_path):
    for num_examples in SIZES:
        source = make_source(kind, num_examples, tmp_path)
        for (num_replicas, num_workers), rows in itertools.product(SHARINGS, (1, 4)):
            batch_size, seen = rows * num_replicas * num_workers, []
            for plan in plans(num_workers, num_replicas, batch_size):
                examples = list(source.eval_examples(plan).as_numpy_iterator())
                steps = -(-num_examples // batch_size)
                assert len(examples) == steps * num_replicas * rows
                assert plan.num_eval_batches(num_examples) == steps * num_replicas
                seen += [one["keys"][0] for one in examples if one["position"] < num_examples]
            assert sorted(seen) == list(range(num_examples)), (num_examples, num_replicas, num_workers, rows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("num_workers", "num_replicas", "batch_size"), usual((1, 2, 8), (2, 2, 12), also=[(1, 1, 23), (3, 1, 24)])
)
def test_eval_dataset_masks_what_fills_up_batches(sources, kind, num_workers, num_replicas, batch_size):
    seen, counts = [], set()
    for plan in plans(num_workers, num_replicas, batch_size):
        dataset = eval_dataset(sources[kind], BlankView(), plan=plan)
        parts = list(dataset.as_numpy_iterator())
        counts |= {len(parts), int(dataset.cardinality())}
        seen += [label for part in parts for label in part["labels"][part["mask"] == 1]]
        assert {part["mask"].shape for part in parts} == {(plan.per_replica_batch_size,)}
    assert sorted(seen) == list(range(NUM_EXAMPLES))
    assert counts == {-(-NUM_EXAMPLES // batch_size) * num_replicas}


# ---- The plan


@pytest.mark.parametrize(("num_examples", "num_workers"), [(0, 2), (1, 3), (23, 1), (23, 4), (24, 4)])
def test_shares_hold_each_example_once_and_are_of_even_size(num_examples, num_workers):
    shares = [plan.share(num_examples) for plan in plans(num_workers, batch_size=num_workers * 2)]
    assert [number for share in shares for number in range(*share)] == list(range(num_examples))
    sizes = [stop - start for start, stop in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("batch_size", "replicas", "nearest"), [(512, 6, "510 or 516"), (7, 4, "4 or 8"), (3, 4, "4")])
def test_plan_suggests_the_nearest_batches_that_can_be_shared(batch_size, replicas, nearest):
    plan = BatchPlan(global_batch_size=batch_size, total_replicas=replicas)
    message = f"--eval_batch_size={batch_size}: cannot be shared out evenly over {replicas} replicas; use {nearest}."
    with pytest.raises(UserError) as error:
        plan.check("eval_batch_size")
    assert str(error.value) == message


@pytest.mark.parametrize(("num_examples", "fix"), [(22, "use at most 20."), (3, "use at most 3 replicas.")])
def test_plan_suggests_a_batch_that_the_data_has(num_examples, fix):
    source = ArraySource("noise", np.zeros([num_examples, 8, 8, 1], np.uint8))
    with pytest.raises(UserError) as error:
        BatchPlan(global_batch_size=24, total_replicas=4).check_fits(source)
    assert str(error.value) == f"--train_batch_size=24: noise has only {num_examples} examples; {fix}"
