"""The files of weights that the authors released: what is in them, under the names of their TF1 program.

Their TF2 program numbers its layers in the same order, over the whole process, so that only the order of
the numbers counts. Nothing in a file is executed, and no name in it becomes a path.
"""

import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2

from tf_simclr.config import UserError, check_readable_place
from tf_simclr.files import first_line, listed
from tf_simclr.runs.networks import READ_ERRORS, DamagedCheckpointError, find_checkpoint, is_saved_model

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VARIABLE = "VARIABLE_VALUE"
_STEPS = ("global_step", f"global_step/.ATTRIBUTES/{_VARIABLE}")
_EMA = "ema_model/"
_SUPERVISED_HEAD = "head_supervised/"
_WHAT_FITS = "name a TF1 checkpoint or a TF2 SavedModel of the authors"
# What training needs besides the network: slots and settings of the optimizer, counters, negatives in memory.
_SKIPPED = re.compile(
    r".*/(Momentum|momentum|Adam|m|v|vhat|LARS\w*)(_\d+)?"
    r"|(SGD|Adam|LARS\w*|Momentum)(_\d+)?/.*"
    r"|(.*/)?(global_step|save_counter|iter|iterations|beta[12]_power)"
    r"|(.*/)?\w*memory\w*(/.*)?"
)
_TF2_LAYER = re.compile(r"(.*/)?(conv2d|(?:sync_)?batch_normalization|dense)(?:_(\d+))?/(\w+)")
_LOGITS = re.compile(r"(.*/)?head_supervised/linear_layer/dense(_\d+)?/MatMul")
_TF2_HEAD_LAYER = re.compile(r"(?:.*/)?projection_head(?:_\d+)?/(n?l_\d+)/.*")


@dataclasses.dataclass(frozen=True)
class ReleasedFile:
    """The variables of a network in a file.

    Attributes:
        where: the flag and the file, for messages.
        shapes: of the variables by their names in the authors' TF1 program, such as
            `base_model/conv2d_1/kernel`; what has no such name has the one that the file gives it.
        step: that training had reached; None if the file does not tell.
        head_layer: output of the projection head that the logits are computed from, 0 for its input; None
            if the file holds no graph that tells.
        fingerprint: of all that is in it: its index has a checksum of each tensor.
    """

    where: str
    shapes: dict[str, tuple]
    step: int | None
    head_layer: int | None
    _reader: Any
    _keys: dict[str, str]
    fingerprint: str = ""

    def read(self, name: str) -> np.ndarray:
        """Returns a variable.

        Raises:
            DamagedCheckpointError: it cannot be read.
            UserError: it is not of numbers with a fraction, or not finite.
        """
        key = self._keys[name]
        dtype = self._reader.get_variable_to_dtype_map()[key]
        if not dtype.is_floating:
            raise UserError(f"{self.where}: {name} is of the type {dtype.name}; {_WHAT_FITS}.")
        try:
            value = self._reader.get_tensor(key)
        except READ_ERRORS as error:
            raise _damaged(self.where, error) from error
        if not np.isfinite(value).all():
            raise UserError(f"{self.where}: {name} is not finite; {_WHAT_FITS}.")
        return value


def open_released(path: str, *, ema: bool = False) -> ReleasedFile:
    """Opens a file of released weights and reads the names in it.

    Args:
        path: prefix of a checkpoint or one of its files, a SavedModel, or a directory with one checkpoint.
        ema: take the moving average of the weights. A supervised head without one is taken as it is.

    Raises:
        DamagedCheckpointError: the file cannot be read.
        UserError: there is none, or it is of another program.
    """
    check_readable_place("checkpoint", path)
    path = os.path.expanduser(path)
    where = f"--checkpoint={path}"
    try:
        prefix = _find(path)
        reader = tf.train.load_checkpoint(prefix)
        shapes = {key: tuple(shape) for key, shape in reader.get_variable_to_shape_map().items()}
        _check_size(prefix, reader.get_variable_to_dtype_map(), shapes)
        named = list(_named_like_tf1(reader)) if _GRAPH in shapes else [(key, key) for key in shapes]
        step = _read_step(reader, shapes) or _step_in_name(prefix)
        head_layer = _head_layer_of_logits(path) if is_saved_model(path) else None
        with tf.io.gfile.GFile(f"{prefix}.index", "rb") as index:
            fingerprint = hashlib.sha256(index.read()).hexdigest()
    except UserError:
        raise
    except READ_ERRORS as error:
        raise _damaged(where, error) from error
    keys: dict[str, str] = {}
    for name, key in _choose_average(where, named) if ema else _leave_average(named):
        if key in shapes and not _SKIPPED.fullmatch(name):
            keys[key if name in keys else name] = key
    if not any(name.startswith("base_model/conv2d") for name in keys):
        raise UserError(
            f"{where}: not one of the authors' files, as none of its {len(shapes)} variables is named like "
            f"base_model/conv2d/kernel or resnet/.../conv2d/kernel; {_WHAT_FITS}. Runs of this program need no import."
        )
    shapes = {name: shapes[key] for name, key in keys.items()}
    return ReleasedFile(where, shapes, step, head_layer, reader, keys, fingerprint)


def _damaged(where: str, error: BaseException) -> DamagedCheckpointError:
    return DamagedCheckpointError(f"{where} is damaged or cannot be read ({first_line(error)}); fetch the file again.")


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


def _check_size(prefix: str, dtypes: Mapping[str, tf.DType], shapes: Mapping[str, tuple]) -> None:
    """Raises ValueError where the variables are larger than the files: memory is set apart for them."""
    declared = sum(dtypes[key].size * math.prod(shape) for key, shape in shapes.items() if dtypes[key] != tf.string)
    directory, base = os.path.split(prefix)
    names = [name for name in tf.io.gfile.listdir(directory or ".") if name.startswith(f"{base}.data-")]
    there = sum(tf.io.gfile.stat(os.path.join(directory, name)).length for name in names)
    if declared > there:
        raise ValueError(f"variables of {declared} bytes in files of {there}")


def _read_step(reader: Any, shapes: dict[str, tuple]) -> int | None:
    dtypes = reader.get_variable_to_dtype_map()
    for key in _STEPS:
        if shapes.get(key) == () and dtypes[key].is_integer and (step := int(reader.get_tensor(key))) > 0:
            return step
    return None


def _step_in_name(prefix: str) -> int | None:
    """Returns the step that training had reached, as TensorFlow adds it to the name of a checkpoint."""
    match = re.fullmatch(r".*-([1-9]\d{0,17})", os.path.basename(prefix))
    return int(match[1]) if match else None


def _leave_average(named: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, key) for name, key in named if not name.startswith(_EMA)]


def _choose_average(where: str, named: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    average = [(name.removeprefix(_EMA), key) for name, key in named if name.startswith(_EMA)]
    if not average:
        raise UserError(
            f"--ema=True: {where.removeprefix('--checkpoint=')} has no variables in {_EMA}; leave it out: pretrained "
            "TF1 checkpoints of SimCLRv2 have them."
        )
    if not any(name.startswith(_SUPERVISED_HEAD) for name, _ in average):
        average += [(name, key) for name, key in named if name.startswith(_SUPERVISED_HEAD)]
    return average


def _named_like_tf1(reader: Any) -> Iterator[tuple[str, str]]:
    """Yields (name in the TF1 program, or else in the file; key) of what an object graph lists."""
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.ParseFromString(reader.get_tensor(_GRAPH))
    found = [
        ((a.full_name or a.checkpoint_key).removesuffix(":0"), a.checkpoint_key)
        for node in graph.nodes
        for a in node.attributes
        if a.name == _VARIABLE
    ]
    first: dict[str, int] = {}
    for name, _ in found:
        if (layer := _encoder_layer(name)) is not None:
            kind, number, _ = layer
            first[kind] = min(first.get(kind, number), number)
    for name, key in found:
        yield _tf1_name(name, first), key


def _encoder_layer(name: str) -> tuple[str, int, str] | None:
    """Returns (kind of layer, its number, variable) of a variable of the TF2 program's encoder."""
    match = _TF2_LAYER.fullmatch(name)
    if not match or match[2] == "dense" or _TF2_HEAD_LAYER.fullmatch(name) or _SKIPPED.fullmatch(name):
        return None
    return match[2].removeprefix("sync_"), int(match[3] or 0), match[4]


def _tf1_name(name: str, first: dict[str, int]) -> str:
    if (layer := _encoder_layer(name)) is not None:
        kind, number, variable = layer
        return f"base_model/{numbered(kind, number - first[kind])}/{variable}"
    if _SKIPPED.fullmatch(name) or not (match := _TF2_LAYER.fullmatch(name)):
        return name
    if head := _TF2_HEAD_LAYER.fullmatch(name):
        return f"head_contrastive/{head[1]}/{match[2].removeprefix('sync_')}/{match[4]}"
    if f"/{_SUPERVISED_HEAD}" in f"/{name}":
        return f"head_supervised/linear_layer/dense/{match[4]}"
    return name


def numbered(kind: str, number: int) -> str:
    """Returns the name of the layer that has so many of its kind before it: conv2d, conv2d_1, ..."""
    return f"{kind}_{number}" if number else kind


def _head_layer_of_logits(directory: str) -> int | None:
    """Reads, in the graph of a SavedModel, how many dense layers lie between the encoder and the classifier."""
    saved = saved_model_pb2.SavedModel()
    with tf.io.gfile.GFile(os.path.join(directory, "saved_model.pb"), "rb") as file:
        saved.ParseFromString(file.read())
    counts = set()
    for graph in (meta.graph_def for meta in saved.meta_graphs):
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            by_name = {node.name: node for node in nodes}
            for node in nodes:
                if node.op == "MatMul" and _LOGITS.fullmatch(node.name):
                    counts.add(_num_dense_layers_before(node, by_name))
    return counts.pop() if len(counts) == 1 else None


def _num_dense_layers_before(node, by_name: dict) -> int:
    seen: set[str] = set()
    pending = list(node.input)
    while pending:
        name = pending.pop().lstrip("^").partition(":")[0]
        if name in by_name and name not in seen:
            seen.add(name)
            pending += by_name[name].input
    return sum(by_name[name].op == "MatMul" for name in seen)
