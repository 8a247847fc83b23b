"""The program as two real workers: who writes, a second start, and workers that were started with other flags."""

import json
import sys

import pytest

from tests.support.runs import TOTAL_STEPS, run_workers, tiny_arguments

# 450 images over two workers in batches of 64: the last one is not full.
EVAL_BATCH_SIZE = 64


def start(directory, *flags_of_each):
    """Starts a worker with each of the flags; returns their exit statuses and what they said."""
    arguments = tiny_arguments(directory / "run", eval_batch_size=EVAL_BATCH_SIZE)
    codes = run_workers([[sys.executable, "run.py", *arguments, *flags] for flags in flags_of_each], directory)
    return codes, [(directory / f"worker{n}.log").read_text() for n in range(len(flags_of_each))]


@pytest.mark.slow
@pytest.mark.distributed
def test_two_workers_of_the_program_train_evaluate_and_report_once(tmp_path):
    codes, said = start(tmp_path, (), ())
    assert codes == [0, 0], said
    run = tmp_path / "run"
    result = json.loads((run / "result.json").read_text())
    assert (result["global_step"], result["eval/num_examples"]) == (TOTAL_STEPS, 450)
    assert (run / "saved_model" / str(TOTAL_STEPS) / "saved_model.pb").exists()
    for words in ("step 6/6 | ", "Exported ", "Report: "):  # Of the first worker alone.
        assert [words in text for text in said] == [True, False], words
    assert all(" on 2 replicas (CPU:0)" in text and "Result: linear probe top-1 " in text for text in said)

    before = (run / "result.json").stat().st_mtime_ns
    codes, said = start(tmp_path, (), ())
    assert codes == [0, 0], said
    assert all("Already finished: linear probe top-1 " in text for text in said)
    assert (run / "result.json").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.distributed
def test_workers_of_the_program_with_other_flags_are_refused(tmp_path):
    codes, said = start(tmp_path, (), ("--temperature=0.3",))
    assert codes == [2, 2]
    line = "error: --temperature: not the same at worker 0 and worker 1; start all workers with the same flags."
    assert all(text.rstrip().endswith(line) for text in said)
    assert not (tmp_path / "run").exists()
