"""The folded network for ONNX."""

import os
from collections.abc import Mapping
from typing import Any

from exports.fold_batch_norm import check_size, describe_folded, fold_batch_norm, inference_function
from exports.image_input import IMAGES
from exports.metadata import write_metadata
from tf_simclr.config import UserError
from tf_simclr.models import SimCLRModel

# The newest that both runtimes of 2022 and today's tf2onnx know.
OPSET = 17


def check_onnx(model: SimCLRModel) -> None:
    """Checks that `model` can be written.

    Raises:
        UserError: the package tf2onnx is missing, or the network is too large.
    """
    try:
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--export_formats=onnx: needs the package tf2onnx ({error}); run: pip install 'tf_simclr[onnx]', or "
            "in a checkout: pip install '.[onnx]'"
        ) from error
    check_size(model, "onnx")


def write_onnx(model: SimCLRModel, directory: str, metadata: Mapping[str, Any]) -> None:
    """Writes `model.onnx` and `metadata.json` into `directory`.

    Its input `images` is float32 `[batch, height, width, 3]`, of any number and size; its outputs have
    the names of the folded module.

    Args:
        model: the network.
        directory: that exists.
        metadata: content of `metadata.json`.

    Raises:
        UserError: see `check_onnx`.
    """
    check_onnx(model)
    import tf2onnx

    function = inference_function(fold_batch_norm(model))
    proto, _ = tf2onnx.convert.from_function(function, input_signature=[IMAGES], opset=OPSET)
    _name_axes(proto.graph)
    with open(os.path.join(directory, "model.onnx"), "wb") as file:
        file.write(proto.SerializeToString())
    write_metadata(describe_folded(metadata), directory)


def _name_axes(graph) -> None:
    for axis, name in enumerate(("batch", "height", "width")):
        graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    for output in graph.output:
        output.type.tensor_type.shape.dim[0].dim_param = "batch"
