"""The network for inference: batch norm folded into the layers before it, weights frozen."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from exports.calling import Module, Outputs, make_callable, save_module
from tf_simclr.config import check
from tf_simclr.models import BatchNormalization, SimCLRModel
from tf_simclr.models.layers import Stage, StageBuilder

_LOG = logging.getLogger("tf_simclr")

# It lies before a batch norm, and the folded convolution includes a part of that.
NOT_FOLDED = "initial_conv"

# TensorFlow copies the constants of a graph up to 20 times when it saves and loads it.
MAX_CONSTANT_BYTES = 2**29

# Of the 2 GB of protobuf and flatbuffers, less what the graph itself takes.
MAX_FILE_BYTES = 2**31 - 2**26


def fold_batch_norm(model: SimCLRModel) -> SimCLRModel:
    """Returns the network without its batch norms, each of which is a part of the layer before it.

    With the moving averages, batch norm is a factor and an offset for each channel. The convolution or dense layer
    before it takes the factor into its kernel, and a bias holds the offset. The arithmetic is done in float64, the
    network computes in float32.

    Args:
        model: the network.

    Returns:
        A network for inference with the named outputs of `model`; only `initial_conv` has other values.
    """
    config = dataclasses.replace(model.config, precision="float32")
    folded = SimCLRModel(config, model.num_classes, make_builder=_FoldedBuilder)
    sources = (*model.encoder, *model.projection_head)
    for source, target in zip(sources, (*folded.encoder, *folded.projection_head), strict=True):
        _fold_stage(source, target)
    if model.supervised_head is not None and folded.supervised_head is not None:
        folded.supervised_head.set_weights(model.supervised_head.get_weights())
    return folded


def write_folded(model: SimCLRModel, directory: str, metadata: Mapping[str, Any]) -> None:
    """Writes the folded network as a SavedModel into `directory`.

    `make_inference_module` says how it is called. Its weights are constants, so that TensorFlow lays them out for its
    kernels once and not in each call; large networks keep variables.

    Args:
        model: the network.
        directory: new or empty.
        metadata: content of the asset `metadata.json`.
    """
    folded = fold_batch_norm(model)
    size = num_weight_bytes(folded)
    frozen = size <= MAX_CONSTANT_BYTES
    if not frozen:
        _LOG.info("The weights (%.1f GB) are too large for constants: they stay variables.", size / 1e9)
    save_module(make_inference_module(folded, frozen=frozen), directory, [], describe_folded(metadata))


def describe_folded(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `metadata` without the output that the folded network does not have."""
    endpoints = {name: value for name, value in metadata.get("endpoints", {}).items() if name != NOT_FOLDED}
    return dict(metadata) | {"endpoints": endpoints}


def make_inference_module(folded: SimCLRModel, *, frozen: bool) -> Module:
    """Returns a module with the signature `serve`, which needs neither this project nor a strategy.

    It takes float images `[B, H, W, 3]` in [0, 1] and returns a dictionary of the named outputs except
    `initial_conv`. Like the plain module, it can also be called with `training=False` or `trainable=False`.

    Args:
        folded: from `fold_batch_norm`.
        frozen: whether constants replace the variables.
    """
    module, apply = Module(), inference_function(folded)
    if frozen:
        apply = _freeze(apply)
    else:
        module.weights = folded.variable_tree()
    make_callable(module, lambda images, _: apply(images), ({}, {"trainable": False}))
    return module


def inference_function(folded: SimCLRModel, *, image_size: int | None = None) -> tf.types.experimental.GenericFunction:
    """Returns the `tf.function` from float32 images to the named outputs except `initial_conv`, without checks.

    Args:
        folded: from `fold_batch_norm`.
        image_size: height and width of the images; None for any.
    """

    def apply(images: tf.Tensor) -> Outputs:
        outputs = folded(images, training=False)
        return {name: value for name, value in outputs.items() if name != NOT_FOLDED}

    images = tf.TensorSpec([None, image_size, image_size, 3], tf.float32, name="images")
    return tf.function(apply, input_signature=[images], autograph=False)


def check_size(model: SimCLRModel, export_format: str) -> None:
    """Checks that a file of `export_format` can hold the weights.

    Raises:
        UserError: it cannot.
    """
    size = num_weight_bytes(model)
    check(
        size <= MAX_FILE_BYTES,
        "export_formats",
        export_format,
        f"its files hold 2 GB, the weights take {size / 1e9:.1f} GB; use saved_model or folded.",
    )


def num_weight_bytes(model: SimCLRModel) -> int:
    """Returns the memory of all variables."""
    return sum(variable.shape.num_elements() * variable.dtype.size for variable in model.variables)


def _freeze(function: tf.types.experimental.GenericFunction) -> Callable[[tf.Tensor], Outputs]:
    """Returns the same function of one tensor with constants instead of variables."""
    concrete = function.get_concrete_function()
    frozen = convert_variables_to_constants_v2(concrete)
    return lambda images: tf.nest.pack_sequence_as(concrete.structured_outputs, frozen(images))


def _fold_stage(source: Stage, target: Stage) -> None:
    producers = {id(layer.output): layer for layer in source.layers}
    scales = {producers[id(norm.input)]: _scale_of(norm) for norm in source.norms}
    for layer, folded in zip(source.layers, target.layers, strict=True):
        if isinstance(layer, BatchNormalization):
            folded.bias.assign(_offset_of(layer))
        elif layer in scales:
            folded.kernel.assign(layer.kernel.numpy() * scales[layer])
        else:
            folded.set_weights(layer.get_weights())


def _scale_of(norm: BatchNormalization) -> NDArray[np.float64]:
    """Returns the factor of each channel, `[channels]`."""
    variance = norm.moving_variance.numpy().astype(np.float64)
    return np.asarray(norm.gamma.numpy() / np.sqrt(variance + norm.epsilon))


def _offset_of(norm: BatchNormalization) -> NDArray[np.float64]:
    """Returns what is added to each channel, `[channels]`."""
    beta = 0.0 if norm.beta is None else norm.beta.numpy()
    return np.asarray(beta - norm.moving_mean.numpy() * _scale_of(norm))


class _FoldedBuilder(StageBuilder):
    """Builds the stages for inference: a bias replaces batch norm, and there are no statistics."""

    def norm(
        self, inputs: tf.Tensor, *, name: str, relu: bool = True, zero_gamma: bool = False, center: bool = True
    ) -> tf.Tensor:
        outputs = self.layer(_Bias, inputs, name=name)
        return self.layer(tf.keras.layers.ReLU, outputs) if relu else outputs

    def add(self, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        return self.layer(_Sum, [first, second])


class _Bias(tf.keras.layers.Layer):
    """Adds a number to each channel of `[..., channels]`."""

    def build(self, input_shape: tf.TensorShape) -> None:
        self.bias = self.add_weight(name="bias", shape=(input_shape[-1],))
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.bias_add(inputs, self.bias)


class _Sum(tf.keras.layers.Layer):
    """Adds tensors of one shape.

    `tf.add` could broadcast. TensorFlow cannot prove that it does not for images of any size, and so would leave it
    out when it fuses convolution, bias, sum and rectifier.
    """

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        return tf.add_n(inputs)
