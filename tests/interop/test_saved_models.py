"""SavedModels on disk: damaged ones, foreign ones, and those in a bucket."""

import shutil

import pytest
import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.interop.saved_models import check_module_is_local, load_module, read_image_size, read_metadata

SIZE = 8
BUCKET = "ram://bucket"  # A file system of TensorFlow, like gs:// and s3://, in memory.


@pytest.fixture
def foreign(tmp_path):
    module = tf.Module()
    module.v = tf.Variable(1.0)
    module.__call__ = tf.function(lambda images, trainable: {"default": images * module.v})
    module.__call__.get_concrete_function(tf.TensorSpec([None, None, None, 3]), False)
    tf.saved_model.save(module, str(tmp_path / "foreign"))
    return tmp_path / "foreign"


@pytest.fixture
def ours(foreign):
    (foreign / "tf_simclr_export.json").write_text("{}")
    (foreign / "assets" / "metadata.json").write_text(f'{{"image_size": {SIZE}}}')
    return foreign


def refusal(function, path, *arguments):
    with pytest.raises(UserError) as error:
        function(str(path), *arguments)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"--checkpoint={path}")
    return message


def load(path, **settings):
    return load_module(str(path), SIZE, flag="checkpoint", fix="name another", **settings)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: truncate(next(folder.glob("variables/variables.data*"))),
        lambda folder: truncate(folder / "variables" / "variables.index"),
        lambda folder: truncate(folder / "saved_model.pb"),
        lambda folder: (folder / "saved_model.pb").write_bytes(b""),
        lambda folder: shutil.rmtree(folder / "variables"),
    ],
    ids=["data", "index", "graph", "empty graph", "no variables"],
)
def test_damaged_module_is_refused(foreign, damage):
    damage(foreign)
    assert refusal(load, foreign).endswith("; name another.")


# ---- The size of its images


def test_image_size_is_read(ours):
    assert read_image_size(str(ours), "checkpoint") == SIZE


@pytest.mark.parametrize("content", [None, "damaged", "[]", '{"image_size": "8"}', "[" * 100_000])
def test_export_with_damaged_metadata_is_refused(ours, content):
    metadata = ours / "assets" / "metadata.json"
    metadata.unlink()
    if content is not None:
        metadata.write_text(content)
    message = refusal(read_image_size, ours, "checkpoint")
    assert ": its assets/metadata.json is gone or damaged (" in message
    assert message.endswith("); export the network again.")


@pytest.mark.parametrize("content", [None, "[]", '{"image_size": "8"}'])
def test_image_size_of_a_foreign_module_is_guessed_with_a_log_line(foreign, log, content):
    if content is not None:
        (foreign / "assets" / "metadata.json").write_text(content)
    assert read_image_size(str(foreign), "checkpoint") == 224
    assert log.messages == [f"{foreign} does not say how large its images are: assuming 224 px."]


def test_unreadable_metadata_of_any_module_are_refused(foreign):
    (foreign / "assets" / "metadata.json").write_text("damaged")
    assert "is gone or damaged" in refusal(read_metadata, foreign, "checkpoint")


# ---- In a bucket


def copy_to_bucket(folder, name):
    for path in folder.rglob("*"):
        if path.is_file():
            target = f"{BUCKET}/{name}/{path.relative_to(folder)}"
            tf.io.gfile.makedirs(target.rpartition("/")[0])
            tf.io.gfile.copy(str(path), target, overwrite=True)
    return f"{BUCKET}/{name}"


def test_module_in_a_bucket_must_be_allowed(foreign):
    path = copy_to_bucket(foreign, "module")
    message = refusal(load, path)
    assert "a module can run any operation" in message
    assert "--allow_remote_teacher=True" in message
    _, outputs = load(path, allow_remote=True)
    assert outputs["default"].shape == (1, SIZE, SIZE, 3)
    load(f"file://{foreign}")


def test_run_in_a_bucket_is_allowed(tmp_path):
    """It holds tensors, no program."""
    (tmp_path / "ckpt-1.index").touch()
    check_module_is_local(copy_to_bucket(tmp_path, "run"), "checkpoint")
