"""Result files: which of them is the result of a finished run."""

import subprocess
import sys

import pytest

from tests.support.runs import REPOSITORY, tiny_config
from tf_simclr.config import UserError
from tf_simclr.runs.results import NUM_BAD_IMAGES, ResultFiles

RESULT = {"global_step": 6, "eval/label_top_1_accuracy": 0.5, NUM_BAD_IMAGES: 0}
EVALUATION = {"global_step": 6, "eval/label_top_1_accuracy": 0.75}


def test_result_of_the_same_evaluation_is_found(tmp_path):
    files = ResultFiles(tiny_config(tmp_path))
    files.write(RESULT)
    assert files.finished(6) == RESULT
    assert files.finished(7) is None
    assert ResultFiles(tiny_config(tmp_path, eval_split="train")).finished(6) is None


def test_result_of_a_step_alone_is_not_that_of_a_finished_run(tmp_path):
    files = ResultFiles(tiny_config(tmp_path))
    files.write_step(RESULT)
    assert [path.name for path in tmp_path.iterdir()] == ["result_6.json"]
    assert files.finished(6) is None


def test_result_of_an_evaluation_beside_training_is_not_that_of_a_finished_run(tmp_path):
    files = ResultFiles(tiny_config(tmp_path, mode="eval"))
    files.write(EVALUATION)
    assert files.finished(6) is None
    files.check_keeps_result()


def test_evaluating_a_finished_run_again_leaves_it_finished(tmp_path):
    files = ResultFiles(tiny_config(tmp_path))
    files.write(RESULT)
    files.write(EVALUATION)
    assert files.finished(6) == RESULT | EVALUATION


def test_evaluation_on_other_images_needs_a_name(tmp_path):
    ResultFiles(tiny_config(tmp_path), "1f").write(RESULT)
    with pytest.raises(UserError, match=r"^--eval_name: not given, but \S+/result\.json is of other images"):
        ResultFiles(tiny_config(tmp_path, mode="eval"), "2f").check_keeps_result()
    ResultFiles(tiny_config(tmp_path, mode="eval"), "1f").check_keeps_result()
    ResultFiles(tiny_config(tmp_path, mode="eval", eval_name="other"), "2f").check_keeps_result()


def test_result_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*; free some space") as caught:
        ResultFiles(tiny_config(tmp_path / "file" / "run")).write(RESULT)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_submodules_are_found_after_importing_the_package_alone():
    code = "import tf_simclr; print(tf_simclr.models.build_simclr_model.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "build_simclr_model", done.stderr
