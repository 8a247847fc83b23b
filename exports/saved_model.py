"""SavedModels with named outputs, which are reusable modules of TF-Hub too."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from exports.calling import CALLED_WITH, Module, Outputs, make_callable, save_module
from tf_simclr.augment import EvalView
from tf_simclr.images.decode import decode_image
from tf_simclr.models import SimCLRModel, build_simclr_model

# Images at a time, each of which may take over 1 GB of memory until it is cropped and resized.
_MAX_DECODED = 2
# Both names of training at once are for float32 alone.
_ARGUMENTS: tuple[dict[str, bool], ...] = ({}, {"training": True}, {"trainable": False}, {"trainable": True})


def save_model(model: SimCLRModel, directory: str, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes `model` as a SavedModel into `directory`.

    It is called as `module(images, training=False)` with float images `[B, H, W, 3]` in [0, 1], one or more of any
    size, and returns a dictionary of the named outputs, float32. `trainable=` is the authors' name for `training=`,
    with which batch norm uses and updates its statistics. It has what the reusable SavedModels of TF-Hub have:
    `variables`, `trainable_variables` and `regularization_losses`.

    Signatures: `serving_default` is the call. `predict_jpeg` takes encoded images, string `[N]` with N > 0 or one
    alone `[]`, and returns the representation as `embedding` `[N, features]` and, if the network has a supervised
    head, `probabilities` `[N, classes]`.

    Args:
        model: the network; its variables may be distributed.
        directory: new or empty.
        metadata: content of the asset `metadata.json`, from `describe_export`. The `weight_decay` among its
            `settings` weighs the regularization losses.
    """
    metadata = metadata or {}
    module = make_module(model, weight_decay=metadata.get("settings", {}).get("weight_decay", 0.0))
    save_module(module, directory, ["predict_jpeg"], metadata)


def make_module(model: SimCLRModel, *, weight_decay: float = 0.0) -> Module:
    """Returns a copy of `model` as a module that needs neither this project nor a strategy.

    Args:
        model: the network; its variables may be distributed.
        weight_decay: of the kernels of convolutions and dense layers, for the regularization losses.
    """
    model = copy_for_export(model)
    # Only the variables are tracked: tracking the Keras model would trace every layer again. The lists are saved, so
    # that a loaded module can be trained; a `tf.Module` computes them and would lose them.
    module = Module()
    module.weights = model.variable_tree()
    module.variables = list(model.variables)
    module.trainable_variables = list(model.trainable_variables)
    module.regularization_losses = _regularization_losses(module.trainable_variables, weight_decay)
    apply = {
        training: tf.function(lambda x, t=training: model(x, training=t), autograph=False) for training in (False, True)
    }
    call = make_callable(module, lambda images, training: apply[training](images), _ARGUMENTS)
    for trainable in (False, True):
        call.get_concrete_function(CALLED_WITH[0], training=True, trainable=trainable)
    module.predict_jpeg = tf.function(
        lambda image_bytes: _predict(call, image_bytes, model.config.image_size),
        input_signature=[tf.TensorSpec(None, tf.string, name="image_bytes")],
        autograph=False,
    )
    return module


def copy_for_export(model: SimCLRModel) -> SimCLRModel:
    """Returns a copy of `model` without a strategy, that computes in the dtype of its weights.

    16 bits are for training: not every machine computes them well, and gradients of float16 need a scaled loss.
    """
    config = dataclasses.replace(model.config, precision=model.config.variable_dtype)
    copy = build_simclr_model(config, model.num_classes)
    targets, sources = (tf.nest.flatten(one.variable_tree()) for one in (copy, model))
    for target, source in zip(targets, sources, strict=True):
        target.assign(source)
    return copy


def _regularization_losses(variables: Sequence[tf.Variable], weight_decay: float) -> list[Callable[[], tf.Tensor]]:
    """Returns functions without arguments, as TF-Hub wants them: here one, the L2 loss of all kernels."""
    if not weight_decay:
        return []
    kernels = [variable for variable in variables if variable.shape.rank > 1]
    loss = tf.function(
        lambda: weight_decay * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels]),
        input_signature=[],
        autograph=False,
    )
    return [loss]


def _predict(call: Callable[[tf.Tensor], Outputs], image_bytes: tf.Tensor, image_size: int) -> Outputs:
    """Classifies encoded images, string `[N]` or one `[]`, after the run's own preprocessing for evaluation."""
    view = EvalView(image_size=image_size)
    image_bytes = tf.reshape(image_bytes, [-1])
    num_images = tf.size(image_bytes)
    # The message of TensorFlow's convolutions would not name the argument.
    not_empty = tf.debugging.Assert(num_images > 0, ["image_bytes is empty; give one image or more"])

    def read(element: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        number, encoded = element
        name = tf.strings.join(["image_bytes[", tf.strings.as_string(number), "]"])
        return view.crop_image(decode_image(encoded, name=name))

    with tf.control_dependencies([not_empty]):
        images = tf.map_fn(
            read,
            (tf.range(num_images), image_bytes),
            fn_output_signature=tf.TensorSpec([image_size, image_size, 3], tf.float32),
            parallel_iterations=_MAX_DECODED,
        )
    outputs = call(images)
    prediction = {"embedding": outputs["default"]}
    if "logits_sup" in outputs:
        prediction["probabilities"] = tf.nn.softmax(outputs["logits_sup"])
    return prediction
