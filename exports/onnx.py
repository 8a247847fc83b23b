"""The folded network for ONNX."""

import os
from collections.abc import Mapping
from typing import Any

from exports.calling import IMAGES
from exports.fold_batch_norm import describe_folded, fold_batch_norm, inference_function
from exports.metadata import write_metadata
from tf_simclr.config import UserError
from tf_simclr.models import SimCLRModel

# The newest that both runtimes of 2022 and today's tf2onnx know.
OPSET = 17


def check_onnx_package() -> None:
    """Checks that the converter is installed.

    Raises:
        UserError: the package tf2onnx is missing.
    """
    try:
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--export_formats=onnx: needs the package tf2onnx ({error}); run: pip install 'tf_simclr[onnx]', or "
            "in a checkout: pip install '.[onnx]'"
        ) from error


def write_onnx(model: SimCLRModel, directory: str, metadata: Mapping[str, Any]) -> None:
    """Writes `model.onnx` and `metadata.json` into `directory`.

    Its input `images` is float32 `[batch, height, width, 3]`, of any number and size. Its outputs have the names of
    the folded module.

    Args:
        model: the network, which has passed `check_size`.
        directory: that exists.
        metadata: content of `metadata.json`.
    """
    import tf2onnx

    function = inference_function(fold_batch_norm(model))
    proto, _ = tf2onnx.convert.from_function(function, input_signature=[IMAGES], opset=OPSET)
    for axis, name in enumerate(("batch", "height", "width")):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    for output in proto.graph.output:
        output.type.tensor_type.shape.dim[0].dim_param = "batch"
    with open(os.path.join(directory, "model.onnx"), "wb") as file:
        file.write(proto.SerializeToString())
    write_metadata(describe_folded(metadata), directory)
