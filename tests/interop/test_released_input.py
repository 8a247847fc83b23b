"""Released weights that do not fit, and directories that are taken: refused in one line, or gone on with."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.interop.authors_files import write_tf1, write_tf2
from tests.interop.importing import FINETUNED, import_from, network, refusal, settings_of
from tf_simclr.config import ModelConfig, UserError
from tf_simclr.models import build_simclr_model


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"resnet_depth": 50}, "holds a network with resnet_depth=18; leave it out."),
        ({"width_multiplier": 1.0}, "holds a network with width_multiplier=0.125; leave it out."),
        ({"sk_ratio": 0.0625}, "holds a network with sk_ratio=0.0; leave it out."),
        ({"num_proj_layers": 2}, "holds a network with num_proj_layers=3; leave it out."),
        ({"image_size": 32}, "has the stem for images above 32 px; use more than 32."),
    ],
)
def test_flag_that_contradicts_the_file_is_refused(tmp_path, stated, message):
    path = write_tf1(tmp_path / "r" / "model.ckpt-1", network().variables)
    ((name, value),) = stated.items()
    assert refusal(path, tmp_path / "run", **stated) == f"--{name}={value}: {path} {message}"


@pytest.mark.slow
def test_flag_that_agrees_with_the_file_is_taken(tmp_path):
    path = write_tf1(tmp_path / "r" / "model.ckpt-1", network().variables)
    import_from(path, tmp_path / "run", resnet_depth=18, image_size=96, width_multiplier=0.125)
    assert settings_of(tmp_path / "run")["image_size"] == 96


def changed(kind):
    variables = dict(network(**FINETUNED).variables)
    name = "base_model/conv2d_4/kernel"
    if kind == "extra":
        variables["base_model/conv2d_21/kernel"] = variables[name]
    elif kind == "missing":
        del variables["base_model/batch_normalization_3/gamma"]
    elif kind == "transposed":
        name = "base_model/conv2d_7/kernel"
        variables[name] = variables[name].transpose(3, 2, 0, 1)
    elif kind == "shape":
        variables[name] = variables[name][..., :3]
    elif kind == "head layer":
        variables["head_contrastive/nl_1000/dense/kernel"] = np.ones([8, 4], np.float32)
    elif kind == "wide":
        variables["base_model/conv2d_2/kernel"] = np.ones([1, 1, 1, 300_000], np.float32)
    return variables


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_tf1, write_tf2])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("extra", "1 extra (base_model/conv2d_21/kernel)"),
        ("missing", "1 missing (base_model/batch_normalization_3/gamma)"),
        ("shape", "1 of other shape (base_model/conv2d_4/kernel [3, 3, 8, 3] instead of [3, 3, 8, 8])"),
        (
            "transposed",
            "1 of other shape (base_model/conv2d_7/kernel [16, 8, 3, 3] instead of [3, 3, 8, 16] transposed)",
        ),
        ("head layer", "1 extra (head_contrastive/nl_1000/dense/kernel)"),
        ("wide", "base_model/batch_normalization/beta [8] instead of [2048]"),
    ],
)
def test_variables_that_do_not_match_are_listed(tmp_path, write, kind, expected):
    """Also where a network as large as one of them says would need more memory than there is."""
    path = write(tmp_path / "r" / "model.ckpt-751", changed(kind))
    message = refusal(path, tmp_path / "run", ft_proj_selector=1)
    assert message.startswith(f"--checkpoint={path}: does not match the network that it resembles; variables: ")
    assert expected in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "name"),
    [(rank, "base_model/conv2d/kernel") for rank in (0, 1)]
    + [(0, "base_model/conv2d_3/bias"), (0, "head_contrastive/nl_2/dense/kernel")]
    + [(rank, "head_supervised/linear_layer/dense/kernel") for rank in (0, 1, 3)],
)
def test_variable_of_any_rank_is_refused(tmp_path, rank, name):
    value = np.ones([2] * rank, np.float32)
    whole = network(**FINETUNED).variables | {name: value}
    for number, variables in enumerate((whole, {"base_model/conv2d/kernel": value, name: value})):
        path = write_tf1(tmp_path / "r" / f"model.ckpt-{number}", variables)
        assert refusal(path, tmp_path / "run", ft_proj_selector=1).startswith(f"--checkpoint={path}: ")


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 3, 8, 0), (0, 0, 0, 0)])
def test_variable_without_numbers_is_refused(tmp_path, shape):
    for name in ("base_model/conv2d_1/kernel", "base_model/conv2d_2/kernel"):
        path = tmp_path / "r" / "model.ckpt-1"
        write_tf1(path, network().variables | {name: np.zeros(shape, np.float32)})
        assert name in refusal(path, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("value", "dtype"), [(np.ones(8, np.int32), "int32"), (np.array(["x"] * 8), "string")])
def test_variable_of_another_type_is_refused(tmp_path, value, dtype):
    name = "base_model/batch_normalization/gamma"
    path = write_tf1(tmp_path / "r" / "model.ckpt-1", network().variables | {name: value})
    assert f": {name} is of the type {dtype}; name a TF1 checkpoint" in refusal(path, tmp_path / "run")


def test_variables_larger_than_their_files_are_refused(tmp_path):
    path = write_tf1(tmp_path / "r" / "model.ckpt-1", network().variables)
    (data,) = path.parent.glob("*.data*")
    data.write_bytes(data.read_bytes()[:-1])
    assert "is damaged or cannot be read (variables of " in refusal(path, tmp_path / "run")


class Described(tf.Module):
    """Is saved with a description, as Keras objects were in the authors' days."""

    def _serialize_to_tensors(self):
        return {"OBJECT_CONFIG_JSON": tf.constant("{}")}

    def _restore_from_tensors(self, tensors):
        return tf.no_op()


@pytest.mark.slow
def test_what_a_saved_model_keeps_besides_variables_is_passed_over(tmp_path):
    path = write_tf2(tmp_path / "hub", network().variables, 751, module=Described())
    keys = tf.train.load_checkpoint(f"{path}/variables/variables").get_variable_to_shape_map()
    assert any("OBJECT_CONFIG_JSON" in key for key in keys)
    import_from(path, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_tf1, write_tf2])
def test_average_that_is_not_there_is_refused(tmp_path, write):
    path = write(tmp_path / "r" / "model.ckpt-1", network().variables)
    assert refusal(path, tmp_path / "run", ema=True).startswith(f"--ema=True: {path} has no variables in ema_model/")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nothing", "empty", "two", "project", "ours", "truncated", "nan", "no protobuf"])
def test_file_that_is_none_of_the_authors_is_refused(tmp_path, kind):
    path = tmp_path / "r"
    path.mkdir()
    expected = "name "
    if kind == "nothing":
        path, expected = path / "model.ckpt-5", "no such checkpoint"
    elif kind == "two":
        for number in (1, 2):
            write_tf1(path / f"model.ckpt-{number}", {"a": np.zeros(3, np.float32)})
        expected = "2 checkpoints (model.ckpt-1, model.ckpt-2) in this directory; name one of them"
    elif kind == "project":
        write_tf1(path / "model.ckpt-1", {"dense/kernel": np.zeros(3, np.float32)})
        expected = "not one of the authors' files, as none of its 1 variables is named like base_model/conv2d/kernel"
    elif kind == "ours":
        tf.train.Checkpoint(model=build_simclr_model(ModelConfig(width_multiplier=0.125)).variable_tree()).write(
            str(path / "ckpt-1")
        )
        expected = "Runs of this program need no import"
    elif kind == "truncated":
        write_tf1(path / "model.ckpt-1", network().variables)
        (data,) = path.glob("*.data*")
        data.write_bytes(data.read_bytes()[:1000])
        expected = "is damaged or cannot be read"
    elif kind == "nan":
        name = "base_model/conv2d_4/kernel"
        write_tf1(path / "model.ckpt-1", network().variables | {name: network().variables[name] * np.nan})
        expected = f"{name} is not finite"
    elif kind == "no protobuf":
        shutil.rmtree(path)
        write_tf2(path, network().variables)
        (path / "saved_model.pb").write_bytes(b"no protobuf")
        expected = "is damaged or cannot be read"
    message = refusal(path, tmp_path / "run")
    assert message.startswith(f"--checkpoint={path}")
    assert expected in message


# ---- The directory


@pytest.mark.slow
def test_directory_that_holds_a_run_is_kept(tmp_path, log):
    path = write_tf1(tmp_path / "r" / "model.ckpt-1", network().variables)
    run = tmp_path / "run"
    run.mkdir()
    (run / "flags.json").write_text('{"train_mode": "pretrain"}')
    with pytest.raises(UserError, match="holds checkpoints of another run; use another directory"):
        import_from(path, run, overwrite=True)
    (run / "flags.json").unlink()
    import_from(path, run)
    (run / "notes.txt").write_text("mine")
    newer = write_tf1(tmp_path / "r2" / "model.ckpt-7", network().variables | {"global_step": np.int64(7)})
    with pytest.raises(UserError, match=r"holds another imported network; .* replace it with --overwrite=True"):
        import_from(newer, run)
    import_from(newer, run, overwrite=True)
    names = {file.name for file in run.iterdir()}
    assert names == {"checkpoint", "ckpt-7.index", "ckpt-7.data-00000-of-00001", "flags.json", "notes.txt"}
    (path.parent / "checkpoint").touch()  # Of the authors' directory.
    with pytest.raises(UserError, match="holds checkpoints of another run"):
        import_from(path, path.parent, overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["nothing", "checkpoint"])
def test_import_that_was_stopped_goes_on(tmp_path, log, lost):
    """Before or after the checkpoint was written; what it lacks is the export."""
    path = write_tf1(tmp_path / "r" / "model.ckpt-1", network().variables)
    run = tmp_path / "run"
    config = import_from(path, run)
    before = {file.name: file.stat().st_mtime_ns for file in run.iterdir()}
    if lost == "checkpoint":
        for file in (run / "checkpoint", *run.glob("ckpt-*")):
            file.unlink()
    log.clear()
    assert import_from(path, run) == config
    assert ("Imported " in log.text) == (lost == "checkpoint")
    assert before.keys() == {file.name for file in run.iterdir()}
    if lost == "nothing":
        assert before == {file.name: file.stat().st_mtime_ns for file in run.iterdir()}


@pytest.mark.slow
def test_same_name_of_other_weights_is_another_network(tmp_path):
    paths = []
    for number in range(2):
        variables = {name: value + number for name, value in network().variables.items()}
        paths.append(write_tf1(tmp_path / f"r{number}" / "model.ckpt-1", variables))
    import_from(paths[0], tmp_path / "run")
    with pytest.raises(UserError, match="holds another imported network"):
        import_from(paths[1], tmp_path / "run")


def test_weights_beyond_reach_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tf_simclr.terminal.entry.check_addresses", lambda config: None)
    assert refusal("nowhere://bucket/hub", tmp_path / "run").startswith(
        "--checkpoint=nowhere://bucket/hub: cannot be reached ("
    )
