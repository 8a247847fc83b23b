"""Entry points called from Python."""

import pytest

import exports.export
from tests.support.runs import tiny_config
from tf_simclr.config import DataConfig, EmbedConfig, ExportConfig, ImportConfig, PreviewConfig, UserError
from tf_simclr.evaluation.embed import embed
from tf_simclr.interop.released import import_weights
from tf_simclr.preparation.preview import preview
from tf_simclr.training.experiment import train_and_evaluate

ADDRESS = "s3://bucket/run"


@pytest.mark.parametrize(
    ("call", "config"),
    [
        (train_and_evaluate, lambda: tiny_config(ADDRESS)),
        (embed, lambda: EmbedConfig(checkpoint=ADDRESS, output="x.npz", data=DataConfig(dataset="digits"))),
        (exports.export.export_checkpoint, lambda: ExportConfig(model_dir=ADDRESS)),
        (import_weights, lambda: ImportConfig(checkpoint=ADDRESS, model_dir="x")),
        (preview, lambda: PreviewConfig(data=DataConfig(dataset=f"tfrecord:{ADDRESS}"), output="x.png")),
    ],
)
def test_address_that_tensorflow_cannot_open_is_refused_from_python_too(call, config):
    with pytest.raises(UserError, match=r"s3://bucket/run: TensorFlow has no file system for s3:// here"):
        call(config())
