"""The programs of docs/exports.md run."""

import re

import numpy as np
import pytest
import tensorflow as tf

from exports.export import export_checkpoint
from tests.support.runs import REPOSITORY, TOTAL_STEPS, eagerly, finished_run, write_images
from tf_simclr.config import DataConfig, EmbedConfig, ExportConfig
from tf_simclr.evaluation.embed import embed

pytestmark = pytest.mark.stack

PAGE = REPOSITORY / "docs" / "exports.md"


@pytest.fixture(scope="module")
def programs():
    """The fenced programs by the heading that they stand under."""
    found = {}
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        found[heading] = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture
def names():
    module = str(finished_run().directory / "saved_model" / str(TOTAL_STEPS))
    images = np.random.default_rng(0).uniform(size=(4, 32, 32, 3)).astype(np.float32)
    return {"MODULE": module, "images": images, "labels": np.arange(4) % 2}


def execute(program, names):
    program = program.replace("runs/digits/finetune/saved_model/STEP", names["MODULE"])
    exec(compile(program, str(PAGE), "exec"), names)


@pytest.mark.slow
def test_module_gives_outputs_and_predictions(programs, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (write_images(tmp_path / "images", 1) / "000.png").rename(tmp_path / "photo.jpg")
    for program in programs["The module"]:
        execute(program, names)
    assert names["outputs"]["logits_sup"].shape == [4, 10]
    assert names["prediction"]["probabilities"].shape == [1, 10]


@pytest.mark.slow
def test_keras_layer_trains(programs, names):
    (program,) = programs["In Keras, through TF-Hub"]
    with eagerly():  # What Keras compiles would be traced with all outputs.
        execute(program, names)
    assert names["model"].predict(names["images"], verbose=0).shape == (4, 2)


@pytest.mark.slow
def test_files_of_features_are_read(programs, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, data = str(finished_run().directory), DataConfig(dataset="digits")
    for program, extension in zip(programs["Features of a data set"], ("npz", "parquet", "tfrecord"), strict=True):
        with eagerly():
            embed(EmbedConfig(data=data, split="test[:20]", checkpoint=run, output=f"features.{extension}"))
        execute(program, names)
    assert len(names["rows"]["names"]) == len(names["table"]) == len(list(names["records"])) > 0


@pytest.mark.slow
def test_folded_module_is_called(programs, names, tmp_path):
    (path,) = export_checkpoint(
        ExportConfig(checkpoint=str(finished_run().directory), model_dir=str(tmp_path), export_formats="folded")
    )
    (program,) = programs["Folded inference module"]
    execute(program.replace("runs/digits/finetune/folded/STEP", path), names | {"tf": tf})


@pytest.mark.slow
def test_feature_pyramid_feeds_a_detector(programs, names):
    """With the strides of the metadata; gradients reach the module."""
    (program,) = programs["As the backbone of a detector or a segmenter"]
    names |= {"num_anchors": 3, "num_classes": 5}
    execute(program, names)
    with tf.GradientTape() as tape:
        predictions = names["detect"](names["images"], training=True)
        loss = tf.add_n([tf.reduce_sum(one**2) for one in predictions.values()])
    assert {stride: tuple(one.shape) for stride, one in predictions.items()} == {
        stride: (4, 32 // stride, 32 // stride, 15) for stride in (2, 4, 8)
    }
    gradients = tape.gradient(loss, names["module"].trainable_variables)
    assert sum(gradient is not None and np.any(gradient) for gradient in gradients) > len(gradients) / 2
