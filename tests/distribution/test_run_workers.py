"""The program as two real workers: who writes, a second start, and workers that were started with other flags."""

import json
import sys

import pytest

from tests.support.runs import run_workers, tiny_arguments

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


def start(directory, *flags_of_each):
    """Starts a worker with each of the flags; returns their exit statuses and what they said."""
    # 450 images over two workers in batches of 64: the last one is not full.
    arguments = tiny_arguments(directory / "run", eval_batch_size=64, train_steps=2, width_multiplier=0.0625)
    codes = run_workers([[sys.executable, "run.py", *arguments, *flags] for flags in flags_of_each], directory)
    return codes, [(directory / f"worker{n}.log").read_text() for n in range(len(flags_of_each))]


def check_two_workers(directory, *flags):
    codes, said = start(directory, flags, flags)
    assert codes == [0, 0], said
    result = json.loads((directory / "run" / "result.json").read_text())
    assert (result["global_step"], result["eval/num_examples"]) == (2, 450)
    for words in ("step 2/2 | ", "Report: "):  # Of the first worker alone.
        assert [words in text for text in said] == [True, False], words
    assert all(" on 2 replicas (CPU:0)" in text and "Result: linear probe top-1 " in text for text in said)
    return said


def test_two_workers_of_the_program_train_evaluate_and_report_once(tmp_path):
    """Only real processes show that all collectives pair up and that one of them writes."""
    check_two_workers(tmp_path, "--keep_hub_module_max=0")


@pytest.mark.exhaustive
def test_two_workers_export_once_and_print_the_result_of_a_finished_run(tmp_path):
    said = check_two_workers(tmp_path)
    assert ["Exported " in text for text in said] == [True, False]
    assert (tmp_path / "run" / "saved_model" / "2" / "saved_model.pb").exists()
    before = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    codes, said = start(tmp_path, (), ())
    assert codes == [0, 0], said
    assert all("Already finished: linear probe top-1 " in text for text in said)
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == before


@pytest.mark.exhaustive
def test_workers_of_the_program_with_other_flags_are_refused(tmp_path):
    """`test_rendezvous.py` shows the message, this one that nothing is written before."""
    codes, said = start(tmp_path, (), ("--temperature=0.3",))
    assert codes == [2, 2]
    line = "error: --temperature: not the same at worker 0 and worker 1; start all workers with the same flags."
    assert all(text.rstrip().endswith(line) for text in said)
    assert not (tmp_path / "run").exists()
