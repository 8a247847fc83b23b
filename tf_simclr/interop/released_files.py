"""Files of weights that the authors released, with the variable names of their TF1 program.

Their TF2 program numbers its layers in the same order, but over the whole process, so only the order of the numbers
counts. Nothing in a file is executed, and no name in it becomes a path.
"""

import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2

from tf_simclr.config import UserError, check_readable_place
from tf_simclr.files import listed
from tf_simclr.runs.networks import find_checkpoint, is_saved_model, reading_checkpoint

Shape = tuple[int, ...]
SUPERVISED_HEAD = "head_supervised/linear_layer/dense"
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VARIABLE = "VARIABLE_VALUE"
_STEPS = ("global_step", f"global_step/.ATTRIBUTES/{_VARIABLE}")
_EMA, _HEAD = "ema_model/", "head_supervised/"
_WHAT_FITS = "name a TF1 checkpoint or a TF2 SavedModel of the authors"
_REFETCH = "fetch the file again"
# State of training: slots and settings of the optimizer, counters, negatives in memory.
_SKIPPED = re.compile(
    r".*/(Momentum|momentum|Adam|m|v|vhat|LARS\w*)(_\d+)?"
    r"|(SGD|Adam|LARS\w*|Momentum)(_\d+)?/.*"
    r"|(.*/)?(global_step|save_counter|iter|iterations|beta[12]_power)"
    r"|(.*/)?\w*memory\w*(/.*)?"
)
_TF2_LAYER = re.compile(r"(.*/)?(conv2d|(?:sync_)?batch_normalization|dense)(?:_(\d+))?/(\w+)")
_TF2_HEAD_LAYER = re.compile(r"(?:.*/)?projection_head(?:_\d+)?/(n?l_\d+)/.*")
_LOGITS = re.compile(r"(.*/)?head_supervised/linear_layer/dense(_\d+)?/MatMul")


@dataclasses.dataclass(frozen=True)
class ReleasedFile:
    """The variables of a network in a file.

    Attributes:
        path: name of the file, for messages.
        shapes: shapes of the variables by their names in the authors' TF1 program, such as
            `base_model/conv2d_1/kernel`; a variable without such a name keeps the one in the file.
        step: step at which training ended; None if the file does not tell.
        head_layer: output of the projection head that the logits are computed from, 0 for its input; None if the file
            holds no graph that tells.
        fingerprint: hash of the index, which has a checksum of each tensor.
    """

    path: str
    shapes: Mapping[str, Shape]
    step: int | None = None
    head_layer: int | None = None
    fingerprint: str = ""
    _reader: Any = None
    _keys: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def where(self) -> str:
        """The flag and the file, for messages."""
        return f"--checkpoint={self.path}"

    def read(self, name: str) -> NDArray[np.floating[Any]]:
        """Returns a variable.

        Raises:
            DamagedCheckpointError: if it cannot be read.
            UserError: if it does not hold floating point numbers, or not only finite ones.
        """
        key = self._keys[name]
        dtype = self._reader.get_variable_to_dtype_map()[key]
        if not dtype.is_floating:
            raise UserError(f"{self.where}: {name} is of the type {dtype.name}; {_WHAT_FITS}.")
        with reading_checkpoint(self.where, _REFETCH):
            value: NDArray[np.floating[Any]] = self._reader.get_tensor(key)
        if not np.isfinite(value).all():
            raise UserError(f"{self.where}: {name} is not finite; {_WHAT_FITS}.")
        return value


def open_released(path: str, *, ema: bool = False) -> ReleasedFile:
    """Opens a file of released weights and reads the names in it.

    Args:
        path: prefix of a checkpoint or one of its files, a SavedModel, or a directory with one checkpoint.
        ema: whether to take the moving average of the weights. A supervised head without an average is taken as it is.

    Raises:
        DamagedCheckpointError: if the file cannot be read.
        UserError: if there is none, or it comes from another program.
    """
    check_readable_place("checkpoint", path)
    path = os.path.expanduser(path)
    with reading_checkpoint(f"--checkpoint={path}", _REFETCH):
        prefix = _find(path)
        reader = tf.train.load_checkpoint(prefix)
        shapes = {key: tuple(shape) for key, shape in reader.get_variable_to_shape_map().items()}
        _check_size(prefix, reader.get_variable_to_dtype_map(), shapes)
        named = list(_named_like_tf1(reader)) if _GRAPH in shapes else [(key, key) for key in shapes]
        step = _read_step(prefix, reader, shapes)
        head_layer = _head_layer_of_logits(path) if is_saved_model(path) else None
        with tf.io.gfile.GFile(f"{prefix}.index", "rb") as index:
            fingerprint = hashlib.sha256(index.read()).hexdigest()
    keys: dict[str, str] = {}
    for name, key in _choose_weights(path, named, ema=ema):
        if key in shapes and not _SKIPPED.fullmatch(name):
            keys[key if name in keys else name] = key
    if not any(name.startswith("base_model/conv2d") for name in keys):
        raise UserError(
            f"--checkpoint={path}: not one of the authors' files, because none of its {len(shapes)} variables is named "
            f"like base_model/conv2d/kernel or resnet/.../conv2d/kernel; {_WHAT_FITS}. Runs of this program need no "
            "import."
        )
    shapes = {name: shapes[key] for name, key in keys.items()}
    return ReleasedFile(path, shapes, step, head_layer, fingerprint, reader, keys)


def _find(path: str) -> str:
    if is_saved_model(path) or not tf.io.gfile.isdir(path):
        return find_checkpoint(path.removesuffix(".meta"), "checkpoint")
    # The list of checkpoints in the directory names places on the authors' machines.
    names = sorted(n.removesuffix(".index") for n in tf.io.gfile.listdir(path) if n.endswith(".index"))
    if len(names) != 1:
        found = f"{len(names)} checkpoints ({listed(names)})" if names else "no checkpoint"
        fix = "name one of them" if names else _WHAT_FITS
        raise UserError(f"--checkpoint={path}: {found} in this directory; {fix}.")
    return os.path.join(path, names[0])


def _check_size(prefix: str, dtypes: Mapping[str, tf.DType], shapes: Mapping[str, Shape]) -> None:
    """Raises ValueError if the variables are larger than the files, because reading allocates their declared size."""
    declared = sum(dtypes[key].size * math.prod(shape) for key, shape in shapes.items() if dtypes[key] != tf.string)
    directory, base = os.path.split(prefix)
    names = [name for name in tf.io.gfile.listdir(directory or ".") if name.startswith(f"{base}.data-")]
    there = sum(tf.io.gfile.stat(os.path.join(directory, name)).length for name in names)
    if declared > there:
        raise ValueError(f"variables of {declared} bytes in files of {there}")


def _read_step(prefix: str, reader: Any, shapes: Mapping[str, Shape]) -> int | None:
    """Returns the training step that the file holds, or else the one in its name."""
    dtypes = reader.get_variable_to_dtype_map()
    for key in _STEPS:
        if shapes.get(key) == () and dtypes[key].is_integer and (step := int(reader.get_tensor(key))) > 0:
            return step
    match = re.fullmatch(r".*-([1-9]\d{0,17})", os.path.basename(prefix))
    return int(match[1]) if match else None


def _choose_weights(path: str, named: list[tuple[str, str]], *, ema: bool) -> list[tuple[str, str]]:
    """Returns the weights among (name, key) pairs, or their moving averages by the names of the weights."""
    average = [(name.removeprefix(_EMA), key) for name, key in named if name.startswith(_EMA)]
    if not ema:
        return [(name, key) for name, key in named if not name.startswith(_EMA)]
    if not average:
        raise UserError(
            f"--ema=True: {path} has no variables in {_EMA}; leave it out: pretrained TF1 checkpoints of SimCLRv2 have "
            "them."
        )
    if not any(name.startswith(_HEAD) for name, _ in average):
        average += [(name, key) for name, key in named if name.startswith(_HEAD)]
    return average


def _named_like_tf1(reader: Any) -> Iterator[tuple[str, str]]:
    """Yields (name in the TF1 program, or else in the file; key) of the variables in an object graph."""
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.ParseFromString(reader.get_tensor(_GRAPH))
    found = [
        ((a.full_name or a.checkpoint_key).removesuffix(":0"), a.checkpoint_key)
        for node in graph.nodes
        for a in node.attributes
        if a.name == _VARIABLE
    ]
    first: dict[str, int] = {}
    for kind, number, _ in filter(None, (_encoder_layer(name) for name, _ in found)):
        first[kind] = min(first.get(kind, number), number)
    for name, key in found:
        yield _tf1_name(name, first), key


def _encoder_layer(name: str) -> tuple[str, int, str] | None:
    """Returns (kind of layer, its number, variable) of a variable of the TF2 program's encoder."""
    match = _TF2_LAYER.fullmatch(name)
    if not match or match[2] == "dense" or _TF2_HEAD_LAYER.fullmatch(name) or _SKIPPED.fullmatch(name):
        return None
    return match[2].removeprefix("sync_"), int(match[3] or 0), match[4]


def _tf1_name(name: str, first: Mapping[str, int]) -> str:
    if layer := _encoder_layer(name):
        kind, number, variable = layer
        return f"base_model/{numbered(kind, number - first[kind])}/{variable}"
    match = _TF2_LAYER.fullmatch(name)
    if match and not _SKIPPED.fullmatch(name):
        if head := _TF2_HEAD_LAYER.fullmatch(name):
            return f"head_contrastive/{head[1]}/{match[2].removeprefix('sync_')}/{match[4]}"
        if f"/{_HEAD}" in f"/{name}":
            return f"{SUPERVISED_HEAD}/{match[4]}"
    return name


def numbered(kind: str, number: int) -> str:
    """Returns the name of a layer by its number among those of its kind: conv2d, conv2d_1, ..."""
    return f"{kind}_{number}" if number else kind


def _head_layer_of_logits(directory: str) -> int | None:
    """Counts the dense layers between the encoder and the classifier in the graph of a SavedModel."""
    saved = saved_model_pb2.SavedModel()
    with tf.io.gfile.GFile(os.path.join(directory, "saved_model.pb"), "rb") as file:
        saved.ParseFromString(file.read())
    counts = set()
    for graph in (meta.graph_def for meta in saved.meta_graphs):
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            by_name = {node.name: node for node in nodes}
            logits = (node for node in nodes if node.op == "MatMul" and _LOGITS.fullmatch(node.name))
            counts |= {_num_dense_layers_before(node, by_name) for node in logits}
    return counts.pop() if len(counts) == 1 else None


def _num_dense_layers_before(node: Any, by_name: Mapping[str, Any]) -> int:
    seen: set[str] = set()
    pending = list(node.input)
    while pending:
        name = pending.pop().lstrip("^").partition(":")[0]
        if name in by_name and name not in seen:
            seen.add(name)
            pending += by_name[name].input
    return sum(by_name[name].op == "MatMul" for name in seen)
