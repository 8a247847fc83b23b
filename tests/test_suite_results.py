"""Results of one data set after the other: going on, other settings, what fails, and the table."""

import json

import pytest

from tf_simclr.config import UserError
from tf_simclr.suite_results import SuiteResults, finish_suite, markdown_table, run_suite

SETTINGS = {name: {"weights": "w", "sets": ("a", 1)} for name in ("one", "two")}


def open_results(path, **options):
    return SuiteResults(str(path / "sub" / "result.json"), "output", **options)


@pytest.fixture
def computed():
    """The names of what was computed; `two` cannot be."""
    return []


def compute_into(computed):
    def compute(name):
        computed.append(name)
        if name == "two":
            raise UserError("--dataset=two: not prepared.")
        return {"score": 0.5}

    return compute


def test_what_is_there_is_not_computed_again_and_what_fails_stops_nothing(tmp_path, computed, log):
    expected = {"one": {"score": 0.5}, "two": None}
    for _ in range(2):
        assert run_suite(open_results(tmp_path), SETTINGS, compute_into(computed)) == expected
    assert computed == ["one", "two", "two"]
    assert "two is left out: --dataset=two: not prepared." in log.messages
    assert "[1/2] one: there already" in log.messages
    written = json.loads((tmp_path / "sub" / "result.json").read_text())
    assert written == {"one": {"score": 0.5, "settings": {"weights": "w", "sets": ["a", 1]}}}
    run_suite(open_results(tmp_path, overwrite=True), SETTINGS, compute_into(computed))
    assert computed[3:] == ["one", "two"]


def test_result_with_other_settings_is_kept_and_refused_before_any_work(tmp_path, computed):
    run_suite(open_results(tmp_path), SETTINGS, compute_into(computed), key=lambda name: f"x/{name}")
    before = (tmp_path / "sub" / "result.json").read_bytes()
    changed = {"two": SETTINGS["two"], "one": SETTINGS["one"] | {"weights": "v"}}
    with pytest.raises(UserError) as error:
        run_suite(open_results(tmp_path), changed, compute_into(computed), key=lambda name: f"x/{name}")
    assert str(error.value) == (
        f"{tmp_path}/sub/result.json: has a result of x/one with other settings (weights: w there, v now); replace it "
        "with --overwrite=True, or name another place with --output."
    )
    assert computed == ["one", "two"]
    assert (tmp_path / "sub" / "result.json").read_bytes() == before


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"eval/label_top_1_accuracy": {}}'])
def test_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "result.json").write_text(content)
    with pytest.raises(
        UserError, match=r"result.json: damaged, or no file of such results; delete it, or name"
    ):
        open_results(tmp_path)


def test_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "sub").write_text("a file")
    with pytest.raises(
        UserError, match=r"result.json: cannot be written \(.*\); name another place with --output\."
    ):
        open_results(tmp_path)


def test_table_is_printed_and_written_and_says_what_is_missing(tmp_path, log):
    rows = {"one": ["50.00%"], "two": None}
    with pytest.raises(
        UserError, match=r"^--datasets: 1 of 2 data sets have no result \(two\); the lines above"
    ):
        finish_suite(open_results(tmp_path), ["data set", "top-1"], rows, name="linear")
    table = (tmp_path / "sub" / "result_linear.md").read_text().splitlines()
    assert table == [
        "| data set |  top-1 |",
        "| -------- | -----: |",
        "| one      | 50.00% |",
        "| two      |      - |",
    ]
    assert [message for message in log.messages if message.startswith("|")] == table
    finish_suite(open_results(tmp_path), ["data set", "top-1"], {"one": ["50.00%"]})
    lines = markdown_table(["data set", "top-1"], [["one", "50.00%"]])
    assert (tmp_path / "sub" / "result.md").read_text() == "\n".join(lines) + "\n"
