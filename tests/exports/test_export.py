"""Exporting at the end of a run, and from its checkpoints."""

import functools
import json
import pathlib
import shutil
import sys
import types

import numpy as np
import pytest

from exports import export, fold_batch_norm
from exports.export import SavedModelExport, export_checkpoint
from exports.retention import MARKER
from tests.support.marks import usual
from tests.support.runs import TOTAL_STEPS, finished_run
from tf_simclr.config import ExportConfig, UserError
from tf_simclr.runs.networks import load_network

pytestmark = pytest.mark.stack

NEWEST = f"ckpt-{TOTAL_STEPS}"


@pytest.fixture
def run(tmp_path):
    """A copy of the finished run without its export."""
    ignored = shutil.ignore_patterns("saved_model", "events*")
    return shutil.copytree(finished_run().directory, tmp_path / "run", ignore=ignored)


@pytest.fixture
def written(monkeypatch):
    """Writes a file instead of a SavedModel; collects (weights, metadata)."""
    finished_run()  # Its export must be real.
    calls = []

    def save(model, directory, metadata):
        (pathlib.Path(directory) / "module").touch()
        calls.append((model.get_weights(), metadata))

    monkeypatch.setattr(export, "save_model", save)
    return calls


@functools.cache
def network():
    return load_network(str(finished_run().directory), "checkpoint")


def refusal(**settings):
    with pytest.raises(UserError) as error:
        export_checkpoint(ExportConfig(**settings))
    return str(error.value)


def make_event(step=5, is_last=True, result=None):
    return types.SimpleNamespace(step=step, is_last=is_last, task=types.SimpleNamespace(model=network()), result=result)


def test_action_exports_once_with_the_result_of_the_run_and_keeps_the_newest(tmp_path, written):
    action = SavedModelExport(str(tmp_path), keep=2)
    action(make_event(step=4, is_last=False))
    assert written == []
    action(make_event(result={"accuracy": 0.5}))
    action(make_event())
    assert [metadata["metrics"] for _, metadata in written] == [{"accuracy": 0.5}]
    assert (tmp_path / "saved_model" / "5" / "module").exists()
    for step in (6, 7):
        action(make_event(step))
    assert {path.name for path in (tmp_path / "saved_model").iterdir()} == {"6", "7"}


def test_action_says_before_training_whether_it_can_export(tmp_path):
    check, path = SavedModelExport(str(tmp_path)).check, tmp_path / "saved_model" / "5"
    check(5)
    assert list(tmp_path.iterdir()) == []
    path.mkdir(parents=True)
    with pytest.raises(UserError, match=f"^{path}: not written by tf_simclr; move it away"):
        check(5)
    check(6)
    (path / MARKER).write_text('{"global_step": 5}')
    check(5)


@pytest.mark.parametrize("named", usual("model_dir", also=["checkpoint", "file"]))
def test_checkpoint_is_exported_as_the_run_exported_it(run, written, named):
    settings = {named: str(run)} if named != "file" else {"checkpoint": str(run / f"{NEWEST}.index")}
    (path,) = export_checkpoint(ExportConfig(**settings))
    assert path == str(run / "saved_model" / str(TOTAL_STEPS))
    ((weights, metadata),) = written
    theirs = finished_run().read_json(f"saved_model/{TOTAL_STEPS}/assets/metadata.json")
    result = json.loads((run / f"result_{TOTAL_STEPS}.json").read_text())  # It also says what was evaluated.
    evaluated = {name: result[name] for name in ("eval_split", "eval_steps", "eval_fingerprint")}
    assert metadata == theirs | {"metrics": theirs["metrics"] | evaluated}
    for weight, expected in zip(weights, network().get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert refusal(model_dir=str(run)).endswith("exists already; replace it with --overwrite=True.")
    (run / "class_names.json").unlink()
    export_checkpoint(ExportConfig(model_dir=str(run), overwrite=True))
    metadata = written[1][1]
    assert (metadata["class_names"], metadata["num_classes"]) == (None, 10)


def test_earlier_checkpoint_goes_where_it_is_told(run, tmp_path, written):
    (path,) = export_checkpoint(ExportConfig(checkpoint=str(run / "ckpt-4"), model_dir=str(tmp_path / "out")))
    assert path == str(tmp_path / "out" / "saved_model" / "4")
    metadata = written[0][1]
    assert (metadata["global_step"], metadata["metrics"]) == (4, {})
    assert not (run / "saved_model").exists()


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ("saved_model,pytorch", "--export_formats=pytorch: torchvision's ResNets have no "),
        ("saved_model,onnx", "--export_formats=onnx: needs the package tf2onnx "),
        ("saved_model,tflite", "--export_formats=tflite: its files hold 2 GB, "),
        ("saved_model,folded", "folded/6: exists already; "),
    ],
    ids=["pytorch", "onnx", "tflite", "folded"],
)
def test_formats_are_checked_before_any_is_written(run, written, monkeypatch, formats, message):
    """So that the corrected command finds nothing in its way."""
    monkeypatch.setattr(export, "load_network", lambda *_: network())
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    monkeypatch.setattr(fold_batch_norm, "MAX_FILE_BYTES", 1000)
    if "folded" in formats:
        shutil.copytree(finished_run().directory / "saved_model", run / "folded")
    before = sorted(run.iterdir())
    assert message in refusal(checkpoint=str(run), export_formats=formats)
    assert written == []
    assert sorted(run.iterdir()) == before


def test_saved_model_is_no_checkpoint_to_export(run):
    path = finished_run().directory / "saved_model" / str(TOTAL_STEPS)
    assert refusal(checkpoint=str(path)) == (
        f"--checkpoint={path}: is an export already; name the directory of a run, or a ckpt-* in it."
    )


def test_damaged_checkpoint_leaves_no_export(run):
    (data,) = run.glob(f"{NEWEST}.data*")
    data.write_bytes(data.read_bytes()[:1000])
    assert " is damaged or cannot be read (" in refusal(checkpoint=str(run / NEWEST))
    assert not (run / "saved_model").exists()
