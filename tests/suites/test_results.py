"""Results of one data set after the other: continuing, other settings, failures, and the tables."""

import gc
import json
import weakref

import pytest
import tensorflow as tf

from tests.support.marks import usual
from tf_simclr.config import UserError
from tf_simclr.suites.results import SuiteResults, owning_results, run_suite
from tf_simclr.suites.tables import robustness_table, transfer_table

SETTINGS = {name: {"weights": "w", "sets": ("a", 1)} for name in ("one", "two")}
OUT_OF_MEMORY = "use a smaller --eval_batch_size, or --train_batch_size to finetune."


def score_table(entries):
    return ["data set", "top-1"], [[key, str(entry.get("score", "-"))] for key, entry in entries.items()]


def run(path, compute, settings=SETTINGS, *, overwrite=False, **options):
    """Returns the results, and the error at the end."""
    results = SuiteResults(str(path / "sub" / "result.json"), "output", overwrite=overwrite)
    try:
        run_suite(results, settings, compute, score_table, **options)
    except UserError as error:
        return results, str(error)
    return results, None


def read(path):
    entries = json.loads((path / "sub" / "result.json").read_text())
    return {key: (entry["score"], entry["settings"]["weights"]) for key, entry in entries.items()}


def test_existing_results_are_kept_and_failures_stop_nothing(tmp_path, log):
    computed = []

    def compute(name):
        computed.append(name)
        if name == "one":
            raise UserError("--dataset=one: not prepared.")
        return {"score": 0.5}

    for _ in range(2):
        _, error = run(tmp_path, compute, SETTINGS | {"three": SETTINGS["one"]}, prefix="x/", left_out=["three"])
        assert error.startswith("--datasets: 1 of 2 data sets have no result (one); the lines above say why.")
    assert computed == ["one", "two", "one"]
    assert "one is left out: --dataset=one: not prepared." in log.messages
    assert "[2/2] two: there already" in log.messages
    assert json.loads((tmp_path / "sub" / "result.json").read_text()) == {
        "x/two": {"score": 0.5, "settings": {"weights": "w", "sets": ["a", 1]}}
    }
    lines = (tmp_path / "sub" / "result.md").read_text().splitlines()
    assert lines == [
        "| data set | top-1 |",
        "| -------- | ----: |",
        "| x/one    |     - |",
        "| x/two    |   0.5 |",
        "| x/three  |     - |",
    ]
    assert [message for message in log.messages if message.startswith("|")] == 2 * lines


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


def test_results_of_other_settings_are_refused_or_replaced(tmp_path):
    run(tmp_path, lambda name: {"score": 0.5})
    changed = {name: own | {"weights": "v"} for name, own in SETTINGS.items()}
    computed = []

    def stopped_at_two(name):
        computed.append(name)
        if computed == ["one", "two"]:
            raise KeyboardInterrupt
        return {"score": 0.7}

    _, error = run(tmp_path, stopped_at_two, changed)
    assert error == (
        f"{tmp_path}/sub/result.json: has a result of one with other settings (weights: w there, v now); replace it "
        "with --overwrite=True, or name another place with --output."
    )
    assert not computed
    assert read(tmp_path) == {"one": (0.5, "w"), "two": (0.5, "w")}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stopped_at_two, changed, overwrite=True)
    run(tmp_path, stopped_at_two, changed, overwrite=True)
    assert computed == ["one", "two", "two"]
    assert read(tmp_path) == {"one": (0.7, "v"), "two": (0.7, "v")}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\nmore"),
            f"out of memory (OOM when allocating); {OUT_OF_MEMORY}",
        ),
        (MemoryError(), f"out of memory (MemoryError); {OUT_OF_MEMORY}"),
        (tf.errors.DataLossError(None, None, "corrupted record"), "DataLossError: corrupted record"),
    ],
)
def test_errors_of_tensorflow_stop_nothing(tmp_path, log, error, reason):
    def compute(name):
        if name == "one":
            raise error
        return {"score": 0.5}

    run(tmp_path, compute)
    assert set(read(tmp_path)) == {"two"}
    assert f"one is left out: {reason}" in log.messages


@pytest.mark.parametrize("fails", usual(True, also=[False]))
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
        run(tmp_path, compute)
    finally:
        gc.enable()
    assert there == [None]


@pytest.mark.parametrize("content", ["{", '{"eval/label_top_1_accuracy": {}}'])
def test_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "result.json").write_text(content)
    with pytest.raises(UserError, match=r"result.json: damaged or unreadable \(.*\); delete it, or name"):
        run(tmp_path, None)


def test_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "sub").write_text("a file")
    with pytest.raises(UserError, match=r"result.json: cannot be written \(.*\); name another place with --output\."):
        run(tmp_path, None)


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
    entries = {
        "linear/dtd": {"label_top_1_accuracy": 0.5, "settings": {"weights": "a" * 64, "metric": "top-1"}},
        "finetuned/dtd": {"label_top_1_accuracy": 0.75, "settings": {"weights": "b" * 64, "metric": "top-1"}},
    }
    header, rows = transfer_table(entries)
    assert header[:2] == ["data set", "weights"]
    assert rows == [
        ["dtd", "aaaaaaaa", "top-1", "50.00%", "-", "-"],
        ["dtd", "bbbbbbbb", "top-1", "-", "75.00%", "-"],
    ]
    _, rows = robustness_table(entries)
    assert [row[1:] for row in rows] == [
        ["aaaaaaaa", "-", "-", "50.00%", "-", "-"],
        ["bbbbbbbb", "-", "-", "75.00%", "-", "-"],
    ]
