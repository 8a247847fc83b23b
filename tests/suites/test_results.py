"""Results of one data set after the other: going on, other settings, what fails, and the table."""

import gc
import json
import weakref

import pytest
import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.suites.results import SuiteResults, finish_suite, owning_results, run_suite
from tf_simclr.suites.tables import markdown_table, robustness_table, transfer_table

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


@pytest.mark.slow
def test_what_is_there_is_not_computed_again_and_what_fails_stops_nothing(tmp_path, computed, log):
    expected = {"one": {"score": 0.5}, "two": None}
    for _ in range(2):
        assert run_suite(open_results(tmp_path), SETTINGS, compute_into(computed)) == expected
    assert computed == ["one", "two", "two"]
    assert "two is left out: --dataset=two: not prepared." in log.messages
    assert "[1/2] one: there already" in log.messages
    written = json.loads((tmp_path / "sub" / "result.json").read_text())
    assert written == {"one": {"score": 0.5, "settings": {"weights": "w", "sets": ["a", 1]}}}


def test_second_process_is_refused_and_told_who_computes(tmp_path):
    path = str(tmp_path / "sub" / "result.json")
    with owning_results(path, "output") as results:
        results.add("one", {"score": 0.5}, SETTINGS["one"])
        with (
            pytest.raises(UserError, match=f"--output={path}: another process writes there"),
            owning_results(path, "output"),
        ):
            pass
    with owning_results(path, "output") as results:
        assert set(results.entries) == {"one"}
    assert [file.name for file in (tmp_path / "sub").iterdir()] == ["result.json"]


@pytest.mark.slow
def test_overwriting_replaces_other_settings_and_goes_on_where_it_was_stopped(tmp_path):
    run_suite(open_results(tmp_path), SETTINGS, lambda name: {"score": 0.5})
    changed = {name: own | {"weights": "v"} for name, own in SETTINGS.items()}
    computed = []

    def stopped_at_two(name):
        if name == "two" and not computed.count("two"):
            computed.append("two")
            raise KeyboardInterrupt
        computed.append(name)
        return {"score": 0.7}

    with pytest.raises(KeyboardInterrupt):
        run_suite(open_results(tmp_path, overwrite=True), changed, stopped_at_two)
    found = run_suite(open_results(tmp_path, overwrite=True), changed, stopped_at_two)
    assert computed == ["one", "two", "two"]
    assert found == {"one": {"score": 0.7}, "two": {"score": 0.7}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\nmore"),
            "out of memory (OOM when allocating); use a smaller --eval_batch_size, or --train_batch_size to finetune.",
        ),
        (
            MemoryError(),
            "out of memory (MemoryError); use a smaller --eval_batch_size, or --train_batch_size to finetune.",
        ),
        (tf.errors.DataLossError(None, None, "corrupted record"), "DataLossError: corrupted record"),
    ],
)
def test_what_tensorflow_raises_stops_nothing(tmp_path, log, error, reason):
    def compute(name):
        if name == "one":
            raise error
        return {"score": 0.5}

    assert run_suite(open_results(tmp_path), SETTINGS, compute) == {"one": None, "two": {"score": 0.5}}
    assert f"one is left out: {reason}" in log.messages


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_network_of_one_data_set_is_gone_before_the_next(tmp_path, fails):
    class Network:
        def __init__(self):
            self.itself = self

    earlier, there = [], []

    def compute(name):
        there.extend(network() for network in earlier)
        network = Network()
        earlier.append(weakref.ref(network))
        if fails:
            raise UserError(f"--dataset={name}: not prepared.")
        return {"score": 0.5}

    gc.disable()
    try:
        run_suite(open_results(tmp_path), SETTINGS, compute)
    finally:
        gc.enable()
    assert there == [None]


@pytest.mark.slow
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
    with pytest.raises(UserError, match=r"result.json: damaged or unreadable \(.*\); delete it, or name"):
        open_results(tmp_path)


def test_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "sub").write_text("a file")
    with pytest.raises(UserError, match=r"result.json: cannot be written \(.*\); name another place with --output\."):
        open_results(tmp_path)


def test_table_is_printed_and_written_and_says_what_is_missing(tmp_path, log):
    table = (["data set", "top-1"], [["one", "50.00%"], ["two", "-"]])
    with pytest.raises(UserError, match=r"^--datasets: 1 of 2 data sets have no result \(two\); the lines above"):
        finish_suite(open_results(tmp_path), table, {"one": {}, "two": None})
    lines = (tmp_path / "sub" / "result.md").read_text().splitlines()
    assert lines == [
        "| data set |  top-1 |",
        "| -------- | -----: |",
        "| one      | 50.00% |",
        "| two      |      - |",
    ]
    assert [message for message in log.messages if message.startswith("|")] == lines
    finish_suite(open_results(tmp_path), table, {"one": {}})
    assert markdown_table(*table) == lines


# ---- Tables


def test_linear_and_finetuned_stand_side_by_side():
    top_1, sets = {"weights": "w" * 64, "metric": "top-1"}, {"weights": "w" * 64, "metric": "11-point mAP"}
    scores = {"label_top_1_accuracy": 0.5, "mean_per_class_accuracy": 0.4, "num_examples": 12}
    by_class = scores | {"settings": top_1 | {"metric": "mean per class"}}
    entries = {
        "linear/dtd": scores | {"settings": top_1},
        "linear/pets": by_class,
        "finetuned/dtd": scores | {"label_top_1_accuracy": 0.75, "settings": top_1},
        "finetuned/voc/2007": {"settings": sets | {"label_sets": ["a", "b"]}},
        "finetuned/cars196": {"settings": top_1},
    }
    header, rows = transfer_table(entries)
    assert header == ["data set", "metric", "linear", "finetuned", "test images"]
    assert rows == [
        ["dtd", "top-1", "50.00%", "75.00%", "12"],
        ["pets", "mean per class", "40.00%", "-", "12"],
        ["voc/2007", "11-point mAP", "-", "linear only", "-"],
        ["cars196", "top-1", "-", "-", "-"],
    ]


def test_results_of_different_weights_are_told_apart():
    def entry(weights, score):
        return {
            "label_top_1_accuracy": score,
            "num_examples": 3,
            "settings": {"weights": weights * 64, "metric": "top-1"},
        }

    header, rows = transfer_table({"linear/dtd": entry("a", 0.5), "finetuned/dtd": entry("b", 0.75)})
    assert header[:2] == ["data set", "weights"]
    assert rows == [
        ["dtd", "aaaaaaaa", "top-1", "50.00%", "-", "3"],
        ["dtd", "bbbbbbbb", "top-1", "-", "75.00%", "3"],
    ]
    header, rows = robustness_table({"imagenet_a": entry("a", 0.5), "imagenet_r": entry("b", 0.75)})
    assert [row[:5] for row in rows] == [
        ["imagenet_a", "aaaaaaaa", "3", "-", "50.00%"],
        ["imagenet_r", "bbbbbbbb", "3", "-", "75.00%"],
    ]
