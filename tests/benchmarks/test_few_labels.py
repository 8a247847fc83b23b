"""The method over draws of the labels, and the comparison of its results."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.compare import format_rows, read_accuracies
from benchmarks.digits_few_labels import print_table


def write_results(path, **accuracies):
    path.write_text(json.dumps({"labels": {"1": accuracies, "10": accuracies}}))
    return str(path)


def test_accuracies_are_subtracted_draw_by_draw(tmp_path):
    path = write_results(tmp_path / "a.json", finetuned=[[80.0, 90.0], [70.0, 60.0]], supervised=[[50, 40], [30, 20]])
    assert read_accuracies(path, "finetuned")[10].tolist() == [[80, 90], [70, 60]]
    assert read_accuracies(path, "finetuned", "supervised")[1].tolist() == [[30, 50], [40, 40]]


def test_a_method_that_is_not_there_is_named(tmp_path):
    path = write_results(tmp_path / "a.json", finetuned=[[80.0]])
    with pytest.raises(ValueError, match="no 'supervised' with 1 labels a class, but finetuned"):
        read_accuracies(path, "finetuned", "supervised")


@pytest.mark.parametrize("content", [b"{}", b"no json", b"\xff"])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.json: no results; name a file of benchmarks.digits_few_labels"):
        read_accuracies(str(tmp_path / "a.json"), "finetuned")


def test_differences_are_paired_and_their_range_is_that_of_the_seeds():
    first = {1: np.array([[80.0, 90.0], [70.0, 60.0]])}
    second = {1: np.array([[81.0, 92.0], [69.0, 62.0]])}
    lines = format_rows({"first": first, "second": second})
    assert lines[2:] == [
        "| first | 75.00 ± 12.91 |  |",
        "| second | 76.00 ± 13.24 | +1.00 (+0.50 to +1.50) |",
    ]


def test_other_draws_are_refused():
    with pytest.raises(ValueError, match="second: has not the labels, seeds and draws"):
        format_rows({"first": {1: np.ones((2, 2))}, "second": {1: np.ones((2, 3))}})


def test_table_has_paired_intervals(capsys):
    print_table({"finetuned": np.array([90.0, 92.0, 94.0]), "supervised": np.array([80.0, 81.0, 82.0])})
    # The differences are 10, 11 and 12; Student's t of two degrees of freedom is 4.303.
    half = 4.303 / np.sqrt(3)
    assert f"| supervised | 81.00 | 1.00 | +11.00 ({11 - half:+.2f} to {11 + half:+.2f}) |" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_each_seed_has_a_network_and_draws_of_its_own(tmp_path):
    options = ["--num_seeds=2", "--num_draws=2", "--labels=1", "--methods=finetuned"]
    tiny = ["--pretrain.train_epochs=1", "--finetune.train_steps=2", "--width_multiplier=0.125"]
    paths = [f"--work_dir={tmp_path}", f"--results={tmp_path}/out/results.json", "--keep_hub_module_max=0"]
    program = [sys.executable, "-m", "benchmarks.digits_few_labels"]
    subprocess.run([*program, *options, *tiny, *paths], check=True, timeout=600)
    assert (tmp_path / "seed_1" / "pretrain").is_dir()
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    pixels = np.array(results["labels"]["1"]["logistic regression, raw pixels"])
    assert pixels.shape == (2, 2)
    assert len(np.unique(pixels)) == 4  # Four draws of the labels.
    assert np.shape(results["labels"]["1"]["finetuned"]) == (2, 2)
    assert "supervised" not in results["labels"]["1"]

    picture = f"--picture={tmp_path}/p.png"
    file = f"{tmp_path}/out/results.json"
    compare = [sys.executable, "-m", "benchmarks.compare", f"a={file}", f"b={file}", picture]
    output = subprocess.run(compare, check=True, timeout=120, capture_output=True, text=True).stdout
    assert output.splitlines()[-1].endswith("| +0.00 (+0.00 to +0.00) |")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
