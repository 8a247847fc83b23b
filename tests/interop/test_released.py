"""The authors' files become runs of this program that compute what the authors' networks compute."""

import json
import shutil
import types

import numpy as np
import pytest

import run as program
from tests.interop.authors_files import network, with_training_state, write_tf1
from tests.support.marks import usual
from tests.support.runs import eagerly, write_images
from tf_simclr.config import ImportConfig, ModelConfig, UserError
from tf_simclr.interop.released import build_network, import_weights
from tf_simclr.interop.released_network import infer_network
from tf_simclr.runs.networks import load_network

FINETUNED = {"classes": 5, "selector": 1}
TINY = {"depth": 10} | FINETUNED


def assert_computes(ours, theirs):
    outputs = ours(theirs.images.astype(np.float32), training=False)
    for name, expected in theirs.outputs.items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(outputs[name], expected, rtol=0, atol=1e-4 * scale, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    usual(
        {"depth": 50, "sk": 0.0625} | FINETUNED,
        also=[
            {"classes": 5},
            {"head": (), "classes": 5},
            {"depth": 18, "sk": 0.0625},
            {"depth": 34, "small": True, "head": (8, 4)},
            {"depth": 101, "width": 0.25, "sk": 0.0625, "head": (64, 64, 16)} | FINETUNED,
        ],
    ),
    ids=["R50 SK", "probe", "v1", "R18 SK", "R34 small", "R101 2x SK"],
)
def test_network_computes_what_the_authors_does(settings):
    theirs = network(**settings)
    shapes = {name: value.shape for name, value in theirs.variables.items()}
    file = types.SimpleNamespace(path="file", shapes=shapes, step=0, head_layer=None, read=theirs.variables.get)
    selector = {"ft_proj_selector": settings.get("selector", 0)}
    assert_computes(build_network(file, infer_network(file, ModelConfig(**selector), tuple(selector))), theirs)


# ---- The run


def write_released(path, step=751, offset=0.0):
    variables = {name: value + np.float32(offset) for name, value in network(**TINY).variables.items()}
    return write_tf1(path, with_training_state(variables, step))


def import_from(path, directory, *, overwrite=False, **stated):
    config = ImportConfig(
        checkpoint=str(path),
        model_dir=str(directory),
        overwrite=overwrite,
        model=ModelConfig(**stated),
        stated=tuple(stated),
    )
    return import_weights(config)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A released file and its run; copy the run before you change it."""
    directory = tmp_path_factory.mktemp("imported")
    path = write_released(directory / "r50_1x_sk0" / "model.ckpt-751")
    import_from(path, directory / "run")
    return path, directory / "run"


@pytest.fixture
def run(imported, tmp_path):
    return shutil.copytree(imported[1], tmp_path / "run")


@pytest.mark.slow
def test_run_has_the_network_of_the_file_its_settings_and_step(imported):
    _, run = imported
    assert_computes(load_network(str(run), "checkpoint"), network(**TINY))
    expected = {"resnet_depth": 10, "width_multiplier": 0.125, "ft_proj_selector": 1}
    expected |= {"train_mode": "finetune", "train_steps": 751, "imported_from": "model.ckpt-751"}
    assert json.loads((run / "flags.json").read_text()).items() >= expected.items()
    names = {file.name for file in run.iterdir()}
    assert names == {"checkpoint", "ckpt-751.index", "ckpt-751.data-00000-of-00001", "flags.json"}


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["nothing", "checkpoint"])
def test_import_that_was_stopped_goes_on(imported, run, log, lost):
    """It was stopped before or after it wrote the checkpoint."""
    before = {file.name: file.stat().st_mtime_ns for file in run.iterdir()}
    if lost == "checkpoint":
        for file in (run / "checkpoint", *run.glob("ckpt-*")):
            file.unlink()
    assert import_from(imported[0], run).checkpoint == str(run)
    assert ("Imported " in log.text) == (lost == "checkpoint")
    after = {file.name: file.stat().st_mtime_ns for file in run.iterdir()}
    assert before.keys() == after.keys()
    assert (before == after) == (lost == "nothing")


@pytest.mark.slow
def test_another_import_is_replaced_only_if_asked_for(tmp_path, run):
    (run / "notes.txt").write_text("mine")
    (run / "report.html").write_text("of the old network")
    same_name = write_released(tmp_path / "r" / "model.ckpt-751", offset=1)
    with pytest.raises(UserError, match=r"holds another imported network; .* replace it with --overwrite=True"):
        import_from(same_name, run)
    import_from(write_released(tmp_path / "r" / "model.ckpt-7", 7), run, overwrite=True, ft_proj_selector=1)
    names = {file.name for file in run.iterdir()}
    assert names == {"checkpoint", "ckpt-7.index", "ckpt-7.data-00000-of-00001", "flags.json", "notes.txt"}


@pytest.mark.parametrize(("name", "text"), [("flags.json", '{"train_mode": "pretrain"}'), ("checkpoint", "")])
def test_directory_of_another_run_is_kept(imported, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="holds checkpoints of another run; use another directory"):
        import_from(imported[0], tmp_path, overwrite=True)


def test_file_that_does_not_match_leaves_no_directory(tmp_path):
    variables = dict(network(**TINY).variables)
    del variables["base_model/batch_normalization_3/gamma"]
    path = write_tf1(tmp_path / "r" / "model.ckpt-751", variables)
    with pytest.raises(UserError) as error:
        import_from(path, tmp_path / "run")
    message = (
        f"--checkpoint={path}: does not match the network that it resembles; variables: 1 missing (base_model/batch"
    )
    assert str(error.value).startswith(message)
    assert not (tmp_path / "run").exists()


def test_weights_beyond_reach_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tf_simclr.terminal.entry.check_addresses", lambda config: None)
    with pytest.raises(UserError, match=r"^--checkpoint=nowhere://bucket/hub: cannot be reached \("):
        import_from("nowhere://bucket/hub", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_program_exports_and_evaluates_the_imported_network(imported, tmp_path):
    """On a folder of a few images; the flags of the network come from the run."""
    for name in "abcde":
        write_images(tmp_path / "photos" / name, 4, size=40)
    run, photos = tmp_path / "imported", tmp_path / "photos"
    assert not program.main(["--mode=import", f"--checkpoint={imported[0]}", f"--model_dir={run}", "--image_size=40"])
    assert (run / "saved_model" / "751" / "saved_model.pb").exists()
    data = [f"--dataset=folder:{photos}", "--eval_split=train", "--eval_batch_size=4"]
    with eagerly():
        assert not program.main(["--mode=eval", f"--model_dir={run}", *data])
    assert json.loads((run / "result.json").read_text())["global_step"] == 751
