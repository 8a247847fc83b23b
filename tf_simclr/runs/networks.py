"""Networks from files: find a checkpoint, load its network, start from its weights."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import trackable_object_graph_pb2

from tf_simclr.config import TRAIN_MODES, ModelConfig, UserError, check_readable_place
from tf_simclr.files import DamagedFileError, find_json, first_line, list_names, listed
from tf_simclr.models import SimCLRModel, build_simclr_model
from tf_simclr.runs.checkpoint_list import latest_checkpoint
from tf_simclr.runs.directory import read_settings
from tf_simclr.runs.network_differences import explain_differences, list_differences

# Names that contain the variables: in a checkpoint, in a SavedModel of this project.
_ROOTS = ("model", "weights")
_HEAD = "supervised_head/"
_MEMORY = "memory/"
# TensorFlow's errors for a checkpoint that is truncated, overwritten or out of reach.
READ_ERRORS = (tf.errors.OpError, DecodeError, ValueError, OSError, RuntimeError, IndexError)


Shapes = dict[str, tuple[int, ...]]


class DamagedCheckpointError(UserError):
    """A checkpoint that cannot be read: truncated, overwritten, or a part of it is gone."""


@contextlib.contextmanager
def reading_checkpoint(where: str, fix: str) -> Iterator[None]:
    """Turns TensorFlow's errors for a checkpoint that cannot be read into `DamagedCheckpointError`.

    Args:
        where: the flag and the checkpoint, for the message.
        fix: what the user can do.
    """
    try:
        yield
    except UserError:  # It is a ValueError too.
        raise
    except READ_ERRORS as error:
        raise DamagedCheckpointError(f"{where} is damaged or cannot be read ({first_line(error)}); {fix}.") from error


def initialize_from(path: str, model: SimCLRModel, *, keep_head: bool = True) -> str:
    """Starts `model` from the weights in `path`, and returns a line that says what matched.

    The supervised head is taken over if it has the same shape, and stays new if the number of classes differs.
    Everything else of the network must match. A memory of negatives is left out.

    Args:
        path: a checkpoint, a directory whose latest one is taken, or a SavedModel of this project.
        model: the network.
        keep_head: whether the supervised head may be taken over.

    Raises:
        UserError: there is no such checkpoint, or it is of another network.
    """
    path = find_checkpoint(path, "checkpoint")
    where, fix = f"--checkpoint={path}", "use an earlier one"
    root, saved = check_same_network(path, where, model, fix=fix, ignore_head=True)
    tree = model.variable_tree()
    expected = flatten(tree)
    head = [name for name in expected if name.startswith(_HEAD)]
    if head and not (keep_head and all(saved.get(name) == tuple(expected[name].shape) for name in head)):
        del tree["supervised_head"]
    restored = flatten(tree)
    with reading_checkpoint(where, fix):
        tf.train.Checkpoint(**{root: tree}).read(path).assert_existing_objects_matched().expect_partial()
    notes = "; the supervised head starts fresh" if len(restored) < len(expected) else ""
    if any(name.startswith(_MEMORY) for name, _ in tf.train.list_variables(path)):
        notes += "; its memory of negatives is left out"
    return f"Starting from {path}: {len(restored)} of {len(expected)} variables matched{notes}."


def load_network(path: str, flag: str) -> SimCLRModel:
    """Builds the network that the settings of a run describe, with the weights of a checkpoint.

    Args:
        path: the directory of the run, whose latest checkpoint is taken, or a checkpoint in it.
        flag: that named the path, for messages.

    Raises:
        UserError: there is no such checkpoint, or no settings beside it.
    """
    path = find_checkpoint(path, flag)
    where, fix = f"--{flag}={path}", "name another checkpoint"
    settings = read_settings(os.path.dirname(path))
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    if not names <= settings.keys():
        raise UserError(f"{where}: no flags.json of its run beside it; name a checkpoint in a run's directory.")
    try:
        config = ModelConfig(**{name: settings[name] for name in names})
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: the flags.json of its run is damaged ({first_line(error)}); {fix}.") from error
    _, saved = _saved_shapes(path, where, fix)
    model = build_simclr_model(config, saved.get(f"{_HEAD}kernel", (None,))[-1])
    root, _ = check_same_network(path, where, model, fix=fix)
    with reading_checkpoint(where, fix):
        checkpoint = tf.train.Checkpoint(**{root: model.variable_tree()})
        checkpoint.read(path).assert_existing_objects_matched().expect_partial()
    return model


def find_checkpoint(path: str, flag: str) -> str:
    """Returns the checkpoint that `path` names: itself, the latest of a directory, or the one in a SavedModel.

    Raises:
        UserError: there is none.
    """
    check_readable_place(flag, path)
    path = os.path.expanduser(path)
    if is_saved_model(path):
        return os.path.join(path, "variables", "variables")
    if tf.io.gfile.isdir(path):
        latest = latest_checkpoint(path)
        if latest is None:
            stages = [below for mode in TRAIN_MODES if latest_checkpoint(below := os.path.join(path, mode))]
            fix = f"one of its stages: {', '.join(stages)}" if stages else "one that has ckpt-* files, or a SavedModel"
            raise UserError(f"--{flag}={path}: no checkpoint in this directory; name {fix}.")
        return latest
    path = re.sub(r"\.(index|data-\d+-of-\d+)$", "", path)
    try:
        is_there = tf.io.gfile.exists(path + ".index")
    except tf.errors.OpError as error:  # TensorFlow has no file system for such a path, or no connection.
        raise UserError(
            f"--{flag}={path}: cannot be reached ({first_line(error)}); download it, and name its directory."
        ) from error
    if not is_there:
        directory = os.path.dirname(path) or "."
        there = [name.removesuffix(".index") for name in list_names(directory) if name.endswith(".index")]
        there = [os.path.join(directory, name) for name in there]
        fix = f"use one of {listed(there)}" if there else "no checkpoint is in that directory either"
        raise UserError(f"--{flag}={path}: no such checkpoint; {fix}.")
    return path


def is_saved_model(path: str) -> bool:
    """Returns whether `path` is the directory of a SavedModel; a TF-Hub module on disk is one too."""
    try:
        return bool(tf.io.gfile.exists(os.path.join(path, "saved_model.pb")))
    except tf.errors.OpError:
        return False


def check_same_network(
    path: str, where: str, model: SimCLRModel, *, fix: str, ignore_head: bool = False
) -> tuple[str, Shapes]:
    """Returns the name that contains the variables of a network in a checkpoint, and their shapes.

    Raises:
        DamagedCheckpointError: the checkpoint cannot be read.
        UserError: `model` is another network; the message names the flags that explain it.
    """
    root, saved = _saved_shapes(path, where, fix)
    expected = {name: tuple(variable.shape) for name, variable in flatten(model.variable_tree()).items()}
    ignored = _HEAD if ignore_head else "\0"
    theirs, ours = (
        {name: shape for name, shape in shapes.items() if not name.startswith(ignored)} for shapes in (saved, expected)
    )
    if differences := list_differences(theirs, ours):
        reason = explain_differences(theirs, ours, _settings_beside(path), model.config)
        raise UserError(f"{where}: another network; variables: {differences}; {reason}.")
    return root, saved


def _settings_beside(path: str) -> Mapping[str, Any]:
    """Returns the settings of the run that wrote a checkpoint or a SavedModel; {} if unknown."""
    directory, name = os.path.split(path)
    if name != "variables":
        with contextlib.suppress(DamagedFileError):
            return read_settings(directory)
        return {}
    export = os.path.dirname(directory)
    metadata = find_json(os.path.join(export, "assets", "metadata.json"), {"settings": {str: object}})
    return metadata["settings"] if metadata else {}


def _saved_shapes(path: str, where: str, fix: str) -> tuple[str, Shapes]:
    with reading_checkpoint(where, fix):
        reader = tf.train.load_checkpoint(path)
        shapes = reader.get_variable_to_shape_map()
        # A SavedModel lists a variable under the shortest of its names: the graph has them all.
        graph = trackable_object_graph_pb2.TrackableObjectGraph()
        if "_CHECKPOINTABLE_OBJECT_GRAPH" in shapes:
            graph.ParseFromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    roots = {child.local_name: child.node_id for child in graph.nodes[0].children} if graph.nodes else {}
    for root in filter(roots.__contains__, _ROOTS):
        keys = _keys_below(graph.nodes, roots[root])
        if saved := {name: tuple(shapes[key]) for name, key in keys.items() if name and key in shapes}:
            return root, saved
    raise UserError(f"{where}: not written by tf_simclr; name a checkpoint or a SavedModel that is.")


def _keys_below(nodes: Sequence[Any], root: int) -> dict[str, str]:
    """Returns the keys of all variables of an object by their paths from it; follows no cycle."""
    keys: dict[str, str] = {}
    pending = [(root, "", frozenset[int]())]
    while pending:
        number, prefix, above = pending.pop()
        keys |= {prefix[:-1]: attribute.checkpoint_key for attribute in nodes[number].attributes}
        above |= {number}
        pending += [
            (child.node_id, f"{prefix}{child.local_name}/", above)
            for child in nodes[number].children
            if child.node_id not in above
        ]
    return keys


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, tf.Variable]:
    """Returns {"encoder/stem/conv1/kernel": variable, ...} of a tree of variables."""
    flat: dict[str, tf.Variable] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
