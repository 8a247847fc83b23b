"""Several workers: the rows of a batch that each makes, and the records that it reads."""

import numpy as np
import pytest

from tests.data.kinds import SEED, make_source
from tests.support.marks import usual
from tf_simclr.config import UserError
from tf_simclr.data import ArraySource, BatchPlan

NUM_EXAMPLES = 23
BATCH_SIZE = 12


def plans(num_workers, num_replicas=2, batch_size=BATCH_SIZE):
    """The plan of each worker."""
    total = num_workers * num_replicas
    return [
        BatchPlan(global_batch_size=batch_size, num_replicas=num_replicas, first_replica=first, total_replicas=total)
        for first in range(0, total, num_replicas)
    ]


def rows(source, plan, num_steps, first_step=0):
    """Positions and examples of this worker's rows, each [num_steps, rows]."""
    examples = source.train_examples(SEED, plan, first_step).take(num_steps * plan.local_batch_size)
    found = [(one["position"], one["keys"][0]) for one in examples.as_numpy_iterator()]
    return np.array(found).T.reshape(2, num_steps, -1)


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    return make_source("stream", NUM_EXAMPLES, tmp_path_factory.mktemp("records"))


@pytest.mark.slow
def test_workers_see_the_global_batches_of_one_worker():
    source = make_source("array", NUM_EXAMPLES)
    whole = rows(source, BatchPlan(global_batch_size=BATCH_SIZE), 8)
    for num_workers, first_step in ((2, 0), (3, 5)):
        parts = [rows(source, plan, 3, first_step) for plan in plans(num_workers)]
        np.testing.assert_array_equal(np.concatenate(parts, axis=2), whole[:, first_step : first_step + 3])


def test_batch_of_a_replica_may_hold_several_epochs():
    source = make_source("array", 2)
    found = rows(source, plans(2, num_replicas=1)[1], 5)
    one_by_one = rows(source, BatchPlan(global_batch_size=1), 60)
    np.testing.assert_array_equal(found, one_by_one.reshape(2, 5, 12)[:, :, 6:])
    np.testing.assert_array_equal(one_by_one[0].ravel(), np.arange(60))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", usual(2, also=[1, 3]))
def test_stream_workers_read_a_part_each_once_an_epoch(stream, num_workers):
    seen = []
    for plan in plans(num_workers):
        start, stop = plan.share(NUM_EXAMPLES)
        whole = positions, keys = rows(stream, plan, 7)
        size = stop - start
        epochs = keys.ravel()[: keys.size // size * size].reshape(-1, size)
        np.testing.assert_array_equal(np.sort(epochs, axis=1), [range(start, stop)] * len(epochs))
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs) > 2
        seen.extend(epochs[0])
        own = plan.first_replica * plan.per_replica_batch_size + np.arange(plan.local_batch_size)
        np.testing.assert_array_equal(positions, np.arange(7)[:, np.newaxis] * BATCH_SIZE + own)
        np.testing.assert_array_equal(rows(stream, plan, 2, first_step=4), whole[:, 4:6])
    assert sorted(seen) == list(range(NUM_EXAMPLES))


def test_stream_worker_opens_no_files_of_others(tmp_path):
    source = make_source("stream", NUM_EXAMPLES, tmp_path)
    max(tmp_path.iterdir(), key=lambda path: int(path.stem.partition("-")[2])).unlink()
    assert rows(source, plans(2)[0], 3)[1].max() <= NUM_EXAMPLES // 2


def test_stream_over_workers_is_announced_once(tmp_path, log):
    source = make_source("stream", NUM_EXAMPLES, tmp_path)
    source.train_examples(SEED, plans(1)[0], 0)
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
@pytest.mark.parametrize("kind", ["array", "stream"])
def test_evaluation_has_each_example_once(kind, tmp_path):
    for num_examples, num_replicas, num_workers, num_rows in ((1, 2, 1, 4), (12, 2, 1, 3), (13, 3, 2, 2), (5, 1, 3, 1)):
        source = make_source(kind, num_examples, tmp_path)
        batch_size, seen = num_rows * num_replicas * num_workers, []
        for plan in plans(num_workers, num_replicas, batch_size):
            examples = list(source.eval_examples(plan).as_numpy_iterator())
            num_batches = -(-num_examples // batch_size) * num_replicas
            assert (len(examples), plan.num_eval_batches(num_examples)) == (num_batches * num_rows, num_batches)
            seen += [one["keys"][0] for one in examples if one["position"] < num_examples]
        assert sorted(seen) == list(range(num_examples)), num_examples


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
