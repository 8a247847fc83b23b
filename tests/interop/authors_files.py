"""Files with the names and shapes of the authors' programs, and the outputs of their networks.

The architecture is written here again, in the order in which the authors' code makes its layers. Of this project it
uses only the NumPy arithmetic of `tests.models.reference`.
"""

import functools

import numpy as np
import tensorflow as tf

from tests.models.reference import BLOCKS, EPSILON, conv, max_pool, relu, shortcut_pool


class AuthorsNetwork:
    """A network of the authors, which makes its variables while it computes.

    Args:
        depth: depth of the ResNet.
        width: its width multiplier.
        sk: ratio of selective kernels.
        head: one number for each layer of the projection head; the last is the width of its output. () for SimCLR v1.
        classes: classes of the supervised head; 0 for none.
        selector: head layer that the supervised head sits on.
        small: whether it has the stem for small images.
    """

    def __init__(self, depth=18, width=0.125, *, sk=0.0, head=(8, 8, 4), classes=0, selector=0, small=False):
        self.depth, self.width, self.sk, self.small = depth, width, sk, small
        self.head, self.classes, self.selector = head, classes, selector
        self.variables = {}
        self._rng = np.random.default_rng(0)
        self.outputs = self.forward(np.random.default_rng(1).uniform(size=(2, *((16, 16) if small else (40, 33)), 3)))

    def _variable(self, name, shape, low=None):
        if name not in self.variables:
            scale = 1 / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 0.1
            value = self._rng.normal(size=shape) * scale if low is None else self._rng.uniform(low, 1.5, shape)
            self.variables[name] = value.astype(np.float32)
        return self.variables[name].astype(np.float64)

    def _name(self, kind):
        number = self._counts.get(kind, 0)
        self._counts[kind] = number + 1
        return f"base_model/{kind}_{number}" if number else f"base_model/{kind}"

    def conv(self, x, filters, size, stride=1):
        kernel = self._variable(f"{self._name('conv2d')}/kernel", (size, size, x.shape[-1], filters))
        return conv(x, kernel, stride)

    def norm(self, x, name=None, center=True):
        name, shape = name or self._name("batch_normalization"), (x.shape[-1],)
        gamma = self._variable(f"{name}/gamma", shape, 0.5)
        beta = self._variable(f"{name}/beta", shape) if center else 0
        mean = self._variable(f"{name}/moving_mean", shape)
        variance = self._variable(f"{name}/moving_variance", shape, 0.5)
        return gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta

    def conv_norm(self, x, filters, size, stride=1):
        return relu(self.norm(self.conv(x, filters, size, stride)))

    def filters(self, count):
        return round(count * self.width)

    def stem(self, x):
        if self.small:
            return self.conv_norm(x, self.filters(64), 3)
        if self.sk:
            x = self.conv_norm(x, self.filters(32), 3, 2)
            x = self.conv_norm(x, self.filters(32), 3)
            return max_pool(self.conv_norm(x, self.filters(64), 3))
        return max_pool(self.conv_norm(x, self.filters(64), 7, 2))

    def shortcut(self, x, filters, stride):
        if self.sk:
            x, stride = shortcut_pool(x, stride), 1
        return self.norm(self.conv(x, filters, 1, stride))

    def selective_kernel(self, x, filters, stride):
        x = self.conv_norm(x, 2 * filters, 3, stride)
        branches = np.stack(np.split(x, 2, axis=-1))
        pooled = branches.sum(axis=0).mean(axis=(1, 2), keepdims=True)
        mixed = self.conv_norm(pooled, max(int(filters * self.sk), 32), 1)
        logits = np.stack(np.split(self.conv(mixed, 2 * filters, 1), 2, axis=-1))
        return (np.exp(logits) / np.exp(logits).sum(axis=0) * branches).sum(axis=0)

    def block(self, x, filters, stride, first):
        bottleneck = self.depth >= 50
        shortcut = self.shortcut(x, filters * (4 if bottleneck else 1), stride) if first else x
        if bottleneck:
            x = self.conv_norm(x, filters, 1)
            unit = self.selective_kernel if self.sk else lambda x, f, s: self.conv_norm(x, f, 3, s)
            x = self.conv(unit(x, filters, stride), 4 * filters, 1)
        else:
            x = self.conv(self.conv_norm(x, filters, 3, stride), filters, 3)
        return relu(self.norm(x) + shortcut)

    def forward(self, images):
        self.images, self._counts = images, {}
        x = self.stem(images)
        for group, count in enumerate(BLOCKS[self.depth]):
            for number in range(count):
                x = self.block(x, self.filters(64 * 2**group), 2 if group and not number else 1, not number)
        layers = [x.mean(axis=(1, 2))]
        for number in range(len(self.head)):
            name, last = f"head_contrastive/nl_{number}", number == len(self.head) - 1
            width = self.head[-1] if last else layers[0].shape[-1]
            x = layers[-1] @ self._variable(f"{name}/dense/kernel", (layers[-1].shape[-1], width))
            x = self.norm(x, f"{name}/batch_normalization", center=not last)
            layers.append(x if last else relu(x))
        outputs = {"final_avg_pool": layers[0], "proj_head_output": layers[-1]}
        if self.classes:
            name, features = "head_supervised/linear_layer/dense", layers[self.selector]
            kernel = self._variable(f"{name}/kernel", (features.shape[-1], self.classes))
            outputs["logits_sup"] = features @ kernel + self._variable(f"{name}/bias", (self.classes,))
        return outputs


def with_training_state(variables, step):
    """Adds the training state that a TF1 checkpoint also holds."""
    slots = {f"{name}/Momentum": np.zeros_like(value) for name, value in variables.items() if "/moving" not in name}
    memory = {"memory": np.zeros((4, 3), np.float32), "memory_ptr": np.zeros((), np.int64)}
    return variables | slots | memory | {"global_step": np.array(step, np.int64)}


def write_tf1(path, variables):
    """Writes a checkpoint of TensorFlow 1."""
    tf.io.gfile.makedirs(str(path.parent))
    names = sorted(variables)
    tf.raw_ops.SaveV2(
        prefix=str(path),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(variables[name]) for name in names],
    )
    return path


def tf2_name(name, offset=7):
    """The name of a variable in the TF2 program, which numbers layers over the whole process."""
    part, *middle, variable = name.split("/")
    if part == "base_model":
        layer = "conv2d" if middle[0].startswith("conv2d") else "sync_batch_normalization"
        number = int(middle[0].removeprefix(layer.removeprefix("sync_")).strip("_") or 0) + offset
        return f"resnet/block_group/bottleneck_block/{layer}_fixed/{layer}_{number}/{variable}"
    if part == "head_contrastive":
        layer = "dense_9" if middle[1] == "dense" else "sync_batch_normalization_99"
        return f"projection_head/{middle[0]}/{layer}/{variable}"
    return f"head_supervised/linear_layer/dense_12/{variable}"


class _Released(tf.Module):
    """Keeps variables under the names that Keras gave them, and a description, as Keras objects did at that time."""

    def __init__(self, variables, step):
        super().__init__()
        self.kept = [tf.Variable(value, name=tf2_name(name)) for name, value in variables.items()]
        self.global_step = tf.Variable(np.int64(step), name="global_step")

    def _serialize_to_tensors(self):
        return {"OBJECT_CONFIG_JSON": tf.constant("{}")}

    def _restore_from_tensors(self, tensors):
        return tf.no_op()


def write_tf2(path, variables, step):
    """Writes a SavedModel with the names of the TF2 program."""
    tf.saved_model.save(_Released(variables, step), str(path))
    return path


class ShapesOnly(AuthorsNetwork):
    """Makes shapes instead of variables, which would take gigabytes for the largest networks."""

    def _variable(self, name, shape, low=None):
        self.variables[name] = shape
        return np.broadcast_to(0.0, shape)

    def conv(self, x, filters, size, stride=1):
        self._variable(f"{self._name('conv2d')}/kernel", (size, size, x.shape[-1], filters))
        return np.zeros((1, 1, 1, filters))

    def forward(self, images):
        return super().forward(np.zeros((1, 1, 1, 3)))


@functools.cache
def network(**settings):
    return AuthorsNetwork(**settings)
