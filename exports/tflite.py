"""The folded network for TensorFlow Lite."""

import os
import tempfile
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from exports.calling import Module
from exports.fold_batch_norm import describe_folded, fold_batch_norm, inference_function
from exports.metadata import write_metadata
from tf_simclr.models import SimCLRModel


def write_tflite(model: SimCLRModel, directory: str, metadata: Mapping[str, Any]) -> None:
    """Writes `model_float32.tflite`, `model_float16.tflite` and `metadata.json` into `directory`.

    Both have the signature `serving_default` of the folded module, for any number of images of the network's image
    size. The weights of the second are float16, which halves the file; it computes in float32.

    Args:
        model: the network, which has passed `check_size`.
        directory: that exists.
        metadata: content of `metadata.json`.
    """
    module, folded = Module(), fold_batch_norm(model)
    module.weights = folded.variable_tree()
    module.serve = inference_function(folded, image_size=model.config.image_size)
    with tempfile.TemporaryDirectory() as saved_model:
        tf.saved_model.save(module, saved_model, signatures={"serving_default": module.serve})
        for name in ("float32", "float16"):
            converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=["serving_default"])
            if name == "float16":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.target_spec.supported_types = [tf.float16]
            with open(os.path.join(directory, f"model_{name}.tflite"), "wb") as file:
                file.write(converter.convert())
    write_metadata(describe_folded(metadata), directory)
