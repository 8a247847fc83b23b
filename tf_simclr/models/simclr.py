"""The whole network: encoder, projection head and supervised head."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tf_simclr.config import ModelConfig
from tf_simclr.models.heads import build_projection_head, build_supervised_head
from tf_simclr.models.layers import Stage, StageBuilder
from tf_simclr.models.normalization import BatchNormalization, update_moving_statistics
from tf_simclr.models.recompute import recomputed
from tf_simclr.models.resnet import build_stages

# (mean, variance), each `[channels]`, for each of a model's `norms`.
Statistics = list[tuple[tf.Tensor, tf.Tensor]]


class ForwardPass(NamedTuple):
    """Results of one forward pass.

    Attributes:
        endpoints: the named outputs, `initial_conv` to `logits_sup`, and `default`, in the dtype of the
            variables, as `head_layers` and `statistics` are.
        head_layers: `num_head_layers + 1` tensors: the encoder output `[B, features]`, then the
            output of each layer of the projection head; indexed by `ft_proj_selector`.
        statistics: a (mean, variance) pair for each of the model's `norms`.
    """

    endpoints: dict[str, tf.Tensor]
    head_layers: list[tf.Tensor]
    statistics: Statistics


class SimCLRModel(tf.keras.Model):
    """An encoder with a projection head and, if there are classes, a supervised head.

    `forward` is pure. `model(images, training=True)` also updates the moving averages of batch norm, like
    a Keras model.

    Args:
        config: of the network.
        num_classes: of the supervised head; None for none.
        make_builder: class of the builders of the stages.

    Attributes:
        recompute: whether a gradient computes the inside of each stage again instead of keeping it
            (arXiv 1604.06174): less memory for a second forward pass.
    """

    def __init__(
        self, config: ModelConfig, num_classes: int | None = None, make_builder: Callable[..., Any] = StageBuilder
    ) -> None:
        super().__init__(name="simclr", dtype=config.variable_dtype)
        self.config = config
        self.num_classes = num_classes
        self.recompute = False
        self.encoder: list[Stage] = build_stages(config, make_builder)
        features = self.encoder[-1].output_shape["features"][-1]
        self.projection_head: list[Stage] = build_projection_head(config, features, make_builder)
        self._num_used_head_layers = len(self.projection_head)
        self._head_widths = [features, *(stage.output_shape["features"][-1] for stage in self.projection_head)]
        self.supervised_head = None
        if num_classes is not None:
            width = self._head_widths[config.ft_proj_selector]
            self.supervised_head = build_supervised_head(config, num_classes, width)
        self.built = True

    @property
    def norms(self) -> list[BatchNormalization]:
        """All batch-norm layers, in the order of `ForwardPass.statistics`."""
        return [norm for stage in (*self.encoder, *self.projection_head) for norm in stage.norms]

    @property
    def endpoint_channels(self) -> dict[str, int]:
        """The size of the last axis of each named output."""
        channels: dict[str, int] = {}
        for stage in self.encoder:
            shapes = stage.output_shape
            channels |= {name: shape[-1] for name, shape in shapes["endpoints"].items()}
            channels |= {stage.endpoint: shapes["features"][-1]} if stage.endpoint else {}
        channels |= dict.fromkeys(("final_avg_pool", "default", "proj_head_input"), self._head_widths[0])
        channels |= {"proj_head_output": self._head_widths[-1]}
        return channels | ({} if self.num_classes is None else {"logits_sup": self.num_classes})

    @property
    def used_variables(self) -> list[tf.Variable]:
        """All variables except those that the classifier does not use; see `freeze_for_finetuning`."""
        parts = [*self.encoder, *self.projection_head[: self._num_used_head_layers]]
        parts += [] if self.supervised_head is None else [self.supervised_head]
        return [variable for part in parts for variable in part.variables]

    @property
    def num_used_weights(self) -> int:
        """Numbers in `used_variables`, batch-norm statistics included."""
        return sum(variable.shape.num_elements() for variable in self.used_variables)

    def forward(self, images: Any, *, training: bool, detach_supervised_head: bool = False) -> ForwardPass:
        """Computes every output without changing any variable.

        Args:
            images: `[B, H, W, 3]`, in [0, 1].
            training: use the statistics of this batch in batch norm.
            detach_supervised_head: stop the gradient from the logits into the rest of the network, for the
                online linear probe.

        Raises:
            ValueError: the images are integers, of another shape, or none.
        """
        images = tf.convert_to_tensor(images)
        check_images(images)
        endpoints: dict[str, tf.Tensor] = {}
        statistics: Statistics = []
        x = tf.cast(images, self.config.compute_dtype)
        for stage in self.encoder:
            outputs = self._run(stage, x, training)
            x = outputs["features"]
            statistics += outputs["statistics"]
            endpoints |= outputs["endpoints"]
            if stage.endpoint:
                endpoints[stage.endpoint] = x
        x = tf.reduce_mean(self._widen(x), axis=[1, 2])
        endpoints["default"] = endpoints["final_avg_pool"] = endpoints["proj_head_input"] = x
        head_layers = [x]
        for stage in self.projection_head:
            outputs = self._run(stage, head_layers[-1], training)
            head_layers.append(self._widen(outputs["features"]))
            statistics += outputs["statistics"]
        endpoints["proj_head_output"] = head_layers[-1]
        if self.supervised_head is not None:
            features = head_layers[self.config.ft_proj_selector]
            features = tf.stop_gradient(features) if detach_supervised_head else features
            endpoints["logits_sup"] = self.supervised_head(features)
        endpoints = {name: self._widen(value) for name, value in endpoints.items()}
        return ForwardPass(endpoints, head_layers, statistics)

    def _run(self, stage: Stage, inputs: tf.Tensor, training: bool) -> Any:
        if not (training and self.recompute):
            return stage(inputs, training=training)

        names = ("features", "statistics", "endpoints")  # The gradient of the first starts recomputing.

        def run(x: tf.Tensor) -> list[Any]:
            outputs = stage(x, training=True)
            return [outputs[name] for name in names]

        return dict(zip(names, recomputed(run)(inputs), strict=True))

    def _widen(self, tensor: tf.Tensor) -> tf.Tensor:
        return tf.cast(tensor, self.config.variable_dtype)

    def call(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """Returns the named outputs for images `[B, H, W, 3]` in [0, 1]."""
        outputs = self.forward(images, training=training)
        if training:
            update_moving_statistics(self.norms, outputs.statistics)
        return outputs.endpoints

    def freeze_after_block(self, block: int) -> None:
        """Freezes the stem and the block groups up to `block`: weights and batch-norm statistics.

        Args:
            block: -1 freezes nothing, 0 the stem, k the stem and groups 1 to k. 4 leaves only the
                supervised head: the projection head is frozen too.
        """
        for stage in self.encoder:
            stage.trainable = stage.group > block
        for stage in self.projection_head:
            stage.trainable = block < self.encoder[-1].group

    def freeze_for_finetuning(self, block: int = -1) -> None:
        """Freezes up to `block`, and the part of the network that the supervised head does not use.

        That part is the layers of the projection head above its own: their weights and batch-norm statistics.

        Args:
            block: as for `freeze_after_block`.
        """
        self.freeze_after_block(block)
        selector = self.config.ft_proj_selector
        self._num_used_head_layers = selector if selector >= 0 else len(self.projection_head)
        for stage in self.projection_head[self._num_used_head_layers :]:
            stage.trainable = False

    def variable_tree(self) -> dict[str, Any]:
        """Returns all variables as nested dictionaries: part, stage, layer, variable.

        Checkpoints are written with these keys, which do not depend on Keras' own numbering.
        """
        tree = {
            "encoder": {stage.name: _layer_tree(stage) for stage in self.encoder},
            "projection_head": {stage.name: _layer_tree(stage) for stage in self.projection_head},
        }
        if self.supervised_head is not None:
            tree["supervised_head"] = _variables_of(self.supervised_head)
        return tree


def check_images(images: tf.Tensor) -> None:
    """Raises ValueError unless dtype and static shape are those of a batch of images."""
    if not images.dtype.is_floating:
        raise ValueError(f"images are {images.dtype.name}; give floats in [0, 1]: tf.cast(images, tf.float32) / 255.")
    shape = images.shape
    if not shape.is_compatible_with([None, None, None, 3]) or shape.num_elements() == 0:
        raise ValueError(f"images have the shape {shape}; give [batch, height, width, 3], one image or more.")


def _layer_tree(stage: Stage) -> dict[str, Any]:
    return {layer.name.rpartition("/")[2]: _variables_of(layer) for layer in stage.layers if layer.weights}


def _variables_of(layer: tf.keras.layers.Layer) -> dict[str, Any]:
    names = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
    return {name: variable for name in names if (variable := getattr(layer, name, None)) is not None}


def build_simclr_model(config: ModelConfig, num_classes: int | None = None) -> SimCLRModel:
    """Builds the network with all of its variables.

    Args:
        config: of the network.
        num_classes: of the supervised head; None for none.

    Returns:
        A Keras model from images `[B, H, W, 3]` in [0, 1] to a dictionary of named outputs.
    """
    return SimCLRModel(config, num_classes)
