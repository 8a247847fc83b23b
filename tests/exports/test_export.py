"""Exporting at the end of a run, and from its checkpoints."""

import json
import pathlib
import shutil
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from exports import export, fold_batch_norm
from exports.export import SavedModelExport, export_checkpoint
from exports.retention import MARKER
from tests.support.marks import usual
from tests.support.runs import TOTAL_STEPS, finished_run, run_program
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
    """Writes a file in place of a SavedModel; collects the metadata."""
    finished_run()  # Must be written in earnest.
    calls = []

    def save(model, directory, metadata):
        (pathlib.Path(directory) / "module").touch()
        calls.append(metadata)

    monkeypatch.setattr(export, "save_model", save)
    return calls


def refusal(**settings):
    with pytest.raises(UserError) as error:
        export_checkpoint(ExportConfig(**settings))
    return str(error.value)


def make_event(step=5, is_last=True, result=None):
    task = types.SimpleNamespace(model=load_network(str(finished_run().directory), "checkpoint"))
    return types.SimpleNamespace(step=step, is_last=is_last, task=task, result=result)


@pytest.mark.slow
def test_action_exports_once_with_the_result_of_the_run(tmp_path, written):
    action = SavedModelExport(str(tmp_path))
    action(make_event(step=4, is_last=False))
    assert written == []
    action(make_event(result={"accuracy": 0.5}))
    action(make_event())
    assert [metadata["metrics"] for metadata in written] == [{"accuracy": 0.5}]
    assert (tmp_path / "saved_model" / "5" / "module").exists()


@pytest.mark.parametrize("there", ["nothing", "an export", "something else"])
def test_action_says_before_training_whether_it_can_export(tmp_path, there):
    path = tmp_path / "saved_model" / "5"
    if there != "nothing":
        path.mkdir(parents=True)
    if there == "an export":
        (path / MARKER).write_text('{"global_step": 5}')
    before = sorted(tmp_path.rglob("*"))
    if there == "something else":
        with pytest.raises(UserError, match=f"^{path}: not written by tf_simclr; move it away"):
            SavedModelExport(str(tmp_path)).check(5)
    else:
        SavedModelExport(str(tmp_path)).check(5)
    SavedModelExport(str(tmp_path)).check(6)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_action_keeps_the_newest(tmp_path, written):
    for step in (1, 2, 3):
        SavedModelExport(str(tmp_path), keep=2)(make_event(step))
    assert {path.name for path in (tmp_path / "saved_model").iterdir()} == {"2", "3"}


@pytest.mark.slow
@pytest.mark.parametrize("named", usual("model_dir", also=["checkpoint", "file"]))
def test_checkpoint_is_exported_as_the_run_exported_it(run, named):
    settings = {named: str(run)} if named != "file" else {"checkpoint": str(run / f"{NEWEST}.index")}
    (path,) = export_checkpoint(ExportConfig(**settings))
    assert path == str(run / "saved_model" / str(TOTAL_STEPS))
    theirs = finished_run().directory / "saved_model" / str(TOTAL_STEPS)
    read = [json.loads(tf.io.gfile.GFile(f"{p}/assets/metadata.json").read()) for p in (path, theirs)]
    result = json.loads((run / f"result_{TOTAL_STEPS}.json").read_text())  # It also says what was evaluated.
    evaluated = {name: result[name] for name in ("eval_split", "eval_steps", "eval_fingerprint")}
    assert read[0] == read[1] | {"metrics": read[1]["metrics"] | evaluated}
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype(np.float32)
    ours, expected = (tf.saved_model.load(str(p))(images) for p in (path, theirs))
    for name, value in expected.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.mark.slow
def test_earlier_checkpoint_goes_where_it_is_told(run, tmp_path, written):
    (path,) = export_checkpoint(ExportConfig(checkpoint=str(run / "ckpt-4"), model_dir=str(tmp_path / "out")))
    assert path == str(tmp_path / "out" / "saved_model" / "4")
    assert written[0]["global_step"] == 4
    assert written[0]["metrics"] == {}
    assert not (run / "saved_model").exists()


@pytest.mark.slow
def test_run_of_unknown_class_names_says_so(run, written):
    (run / "class_names.json").unlink()
    export_checkpoint(ExportConfig(model_dir=str(run)))
    assert (written[0]["class_names"], written[0]["num_classes"]) == (None, 10)


@pytest.mark.slow
def test_export_that_exists_needs_overwrite(run, written):
    export_checkpoint(ExportConfig(model_dir=str(run)))
    assert refusal(model_dir=str(run)).endswith("exists already; replace it with --overwrite=True.")
    export_checkpoint(ExportConfig(model_dir=str(run), overwrite=True))
    assert len(written) == 2


@pytest.mark.slow
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
    """So that the command that is fixed finds nothing of the first one in its way."""
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    monkeypatch.setattr(fold_batch_norm, "MAX_FILE_BYTES", 1000)
    if "folded" in formats:
        shutil.copytree(finished_run().directory / "saved_model", run / "folded")
    before = sorted(run.iterdir())
    assert message in refusal(checkpoint=str(run), export_formats=formats)
    assert written == []
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize("content", ["nothing", "files", "steps"])
def test_folder_without_a_checkpoint_is_refused(tmp_path, content):
    if content == "files":
        (tmp_path / "notes.txt").write_text("x")
    if content == "steps":
        (tmp_path / "finetune").mkdir()
        (tmp_path / "finetune" / "ckpt-3.index").write_text("x")
    message = refusal(checkpoint=str(tmp_path))
    assert message.startswith(f"--checkpoint={tmp_path}: no checkpoint in this directory; name ")
    assert (f"name one of its steps: {tmp_path / 'finetune'}" in message) == (content == "steps")


def test_checkpoint_of_another_project_is_refused(run):
    tf.train.Checkpoint(weights=tf.Variable([1.0])).write(str(run / "ckpt-9"))
    message = refusal(checkpoint=str(run / "ckpt-9"))
    assert message == (
        f"--checkpoint={run / 'ckpt-9'}: not written by tf_simclr; name a checkpoint or a SavedModel that is."
    )


def test_saved_model_is_no_checkpoint_to_export(run):
    path = finished_run().directory / "saved_model" / str(TOTAL_STEPS)
    assert refusal(checkpoint=str(path)) == (
        f"--checkpoint={path}: is an export already; name the directory of a run, or a ckpt-* in it."
    )


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_damaged_checkpoint_is_refused_and_leaves_no_export(run, damage):
    (data,) = run.glob(f"{NEWEST}.data*")
    if damage == "gone":
        data.unlink()
    else:
        data.write_bytes(data.read_bytes()[:1000])
    message = refusal(checkpoint=str(run / NEWEST))
    assert message.startswith(f"--checkpoint={run / NEWEST} is damaged or cannot be read (")
    assert not (run / "saved_model").exists()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_program_exports_and_says_where(run):
    done = run_program("--mode=export", f"--checkpoint={run}", "--export_formats=saved_model")
    assert done.returncode == 0, done.stderr
    assert f"Exported {run / 'saved_model' / str(TOTAL_STEPS)}." in done.stdout
    again = run_program("--mode=export", f"--checkpoint={run}")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert again.stderr.startswith("error: ")
