"""Checkpoints: save, resume, start from, and say exactly what does not fit."""

import json
import os
import re
from collections.abc import Iterable, Mapping

import tensorflow as tf

from tf_simclr.config import ExperimentConfig, UserError

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_SETTINGS_FILE = "flags.json"
# Changing these between two starts of a run changes neither the weights nor what they mean.
_FREE_SETTINGS = frozenset(
    ["mode", "model_dir", "data_dir", "cache_dataset", "max_bad_image_fraction", "eval_split", "eval_steps", "eval_batch_size", "eval_name", "checkpoint_epochs", "checkpoint_steps", "keep_checkpoint_max", "keep_hub_module_max", "steps_per_loop", "strategy", "use_tpu", "tpu_name", "tpu_zone", "gcp_project", "master"]
)
_MAX_LISTED = 6


class Checkpoints:
    """The checkpoints `ckpt-<step>` of one run.

    Args:
        directory: `model_dir`.
        task: with `model` and `optimizer`; `optimizer.iterations` is the step.
        keep: how many of the newest stay.
    """

    def __init__(self, directory: str, task, *, keep: int = 5):
        self._task = task
        self._checkpoint = tf.train.Checkpoint(
            model=task.model.variable_tree(), optimizer=task.optimizer, global_step=task.optimizer.iterations
        )
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, directory, max_to_keep=keep, checkpoint_name="ckpt"
        )

    @property
    def latest(self) -> str | None:
        """Path of the newest checkpoint, or None."""
        return self._manager.latest_checkpoint

    def save(self) -> str:
        """Writes `ckpt-<step>` and returns its path.

        Raises:
            UserError: a weight is not finite, or the file cannot be written.
        """
        step = int(self._task.optimizer.iterations)
        bad = [v.name for v in self._task.model.variables if not bool(tf.reduce_all(tf.math.is_finite(v)))]
        if bad:
            raise UserError(
                f"training diverged by step {step}: {_listed(bad)} not finite; the last good checkpoint is "
                f"{self.latest or 'none'}; use a smaller --learning_rate or a longer --warmup_epochs."
            )
        try:
            return self._manager.save(checkpoint_number=step)
        except (tf.errors.OpError, OSError) as error:
            raise UserError(
                f"--model_dir={self._manager.directory}: cannot write checkpoint {step} ({_first_line(error)}); "
                f"the last good one is {self.latest or 'none'}; free some space or choose another directory."
            ) from error

    def restore(self, path: str | None = None) -> int:
        """Restores everything from `path`, or from the newest; returns the step, 0 if there is none.

        Raises:
            UserError: the checkpoint is damaged or of another network.
        """
        path = path or self.latest
        if path is None:
            return 0
        _check_same_network(path, "model_dir", self._task.model)
        try:
            self._checkpoint.restore(path).assert_existing_objects_matched()
        except (AssertionError, tf.errors.OpError) as error:
            raise UserError(
                f"--model_dir={self._manager.directory}: {path} does not fit this run ({_first_line(error)}); "
                "use the --optimizer it was written with, or another --model_dir."
            ) from error
        return int(self._task.optimizer.iterations)


def initialize_from(path: str, model) -> str:
    """Starts `model` from the weights in the checkpoint `path`, and returns one line of what matched.

    The supervised head is taken over where it has the same shape, and stays new where the number of
    classes differs; everything else must match.

    Args:
        path: a checkpoint, or a directory whose latest one is taken.
        model: a `SimCLRModel`.

    Raises:
        UserError: there is no such checkpoint, or it is of another network.
    """
    path = find_checkpoint(path, "checkpoint")
    saved = _check_same_network(path, "checkpoint", model, ignore_head=True)
    tree = model.variable_tree()
    expected = _flatten(tree)
    head = [name for name in expected if name.startswith("supervised_head/")]
    if any(saved.get(name) != _shape(expected[name]) for name in head):
        del tree["supervised_head"]
    restored = _flatten(tree)
    tf.train.Checkpoint(model=tree).restore(path).assert_existing_objects_matched().expect_partial()
    fresh = "; the supervised head starts fresh" if len(restored) < len(expected) else ""
    return f"Starting from {path}: {len(restored)} of {len(expected)} variables matched{fresh}."


def find_checkpoint(path: str, flag: str) -> str:
    """Returns the checkpoint that `path` names: itself, or the latest of a directory.

    Raises:
        UserError: there is none.
    """
    if tf.io.gfile.isdir(path):
        latest = tf.train.latest_checkpoint(path)
        if latest is None:
            raise UserError(
                f"--{flag}={path}: no checkpoint in this directory; name one that has ckpt-* files."
            )
        return latest
    path = re.sub(r"\.(index|data-\d+-of-\d+)$", "", path)
    if not tf.io.gfile.exists(path + ".index"):
        directory = os.path.dirname(path) or "."
        there = sorted(f.removesuffix(".index") for f in tf.io.gfile.glob(os.path.join(directory, "*.index")))
        mend = f"use one of {_listed(there)}" if there else "no checkpoint is in that directory either"
        raise UserError(f"--{flag}={path}: no such checkpoint; {mend}.")
    return path


def _check_same_network(path, flag, model, *, ignore_head: bool = False) -> dict[str, tuple]:
    """Raises UserError with the differences and the flags that explain them; returns the saved shapes."""
    saved = _saved_shapes(path, flag)
    expected = {name: _shape(variable) for name, variable in _flatten(model.variable_tree()).items()}

    def relevant(shapes):
        return {k: v for k, v in shapes.items() if not (ignore_head and k.startswith("supervised_head/"))}

    ours, theirs = relevant(expected), relevant(saved)
    missing = sorted(ours.keys() - theirs.keys())
    extra = sorted(theirs.keys() - ours.keys())
    shapes = [
        f"{k} {theirs[k]} here {ours[k]}" for k in sorted(ours.keys() & theirs.keys()) if theirs[k] != ours[k]
    ]
    if not (missing or extra or shapes):
        return saved
    parts = [f"{len(shapes)} of other shape ({_listed(shapes)})"] if shapes else []
    parts += [f"{len(missing)} missing ({_listed(missing)})"] if missing else []
    parts += [f"{len(extra)} extra ({_listed(extra)})"] if extra else []
    have, want = _describe(theirs), _describe(ours)
    flags = [f"--{k}={v} (here {want.get(k, 'none')})" for k, v in have.items() if want.get(k) != v]
    mend = f"it was written with {', '.join(flags)}" if flags else "name a checkpoint of this network"
    raise UserError(f"--{flag}={path}: another network; variables: {', '.join(parts)}; {mend}.")


def _saved_shapes(path: str, flag: str) -> dict[str, tuple]:
    try:
        shapes = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, OSError) as error:
        raise UserError(
            f"--{flag}={path}: cannot be read ({_first_line(error)}); use an earlier one."
        ) from error
    saved = {
        name[len("model/") : -len(_SUFFIX)]: tuple(shape)
        for name, shape in shapes.items()
        if name.startswith("model/") and name.endswith(_SUFFIX)
    }
    if not saved:
        raise UserError(f"--{flag}={path}: not a checkpoint of tf_simclr; name one that this program wrote.")
    return saved


def _describe(shapes: Mapping[str, tuple]) -> dict[str, object]:
    """Returns {flag: value} of the network that has variables of these names and shapes."""
    from tf_simclr.models.resnet import depth_of

    flags: dict[str, object] = {}
    blocks = {name.split("/")[1] for name in shapes if name.startswith("encoder/block_group")}
    groups = [sum(b.startswith(f"block_group{g}_") for b in blocks) for g in (1, 2, 3, 4)]
    first = "encoder/block_group1_block1"
    flags["resnet_depth"] = depth_of(groups, bottleneck=f"{first}/conv3/kernel" in shapes)
    if f"{first}/conv1/kernel" in shapes:
        flags["width_multiplier"] = shapes[f"{first}/conv1/kernel"][-1] / 64
    flags["sk_ratio"] = (
        "above 0" if f"{first}/mix_conv1/kernel" in shapes or "encoder/stem/conv2/kernel" in shapes else 0
    )
    flags["se_ratio"] = "above 0" if f"{first}/squeeze/kernel" in shapes else 0
    if shapes.get("encoder/stem/conv1/kernel", (7,))[0] == 3 and "encoder/stem/conv2/kernel" not in shapes:
        flags["image_size"] = "32 or less"
    else:
        flags["image_size"] = "above 32"
    layers = sorted(
        name for name in shapes if name.startswith("projection_head/") and name.endswith("dense/kernel")
    )
    flags["num_proj_layers"] = len(layers)
    if layers:
        flags["proj_out_dim"] = shapes[layers[-1]][-1]
    if "supervised_head/kernel" in shapes:
        flags["ft_proj_selector or number of classes"] = shapes["supervised_head/kernel"]
    return flags


def claim_directory(config: ExperimentConfig) -> None:
    """Makes `model_dir` and writes its settings, or checks them against those already there.

    Raises:
        UserError: it cannot be written, or holds a run with other settings.
    """
    directory = str(config.model_dir)
    path = os.path.join(directory, _SETTINGS_FILE)
    settings = config.to_dict()
    try:
        tf.io.gfile.makedirs(directory)
        if tf.io.gfile.exists(path):
            with tf.io.gfile.GFile(path) as file:
                _check_same_settings(directory, json.loads(file.read()), settings)
        write_json(path, settings)
    except json.JSONDecodeError as error:
        raise UserError(
            f"--model_dir={directory}: {path} is damaged ({error}); use another directory."
        ) from error
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--model_dir={directory}: cannot be written ({_first_line(error)}); use a directory you may write to."
        ) from error


def _check_same_settings(directory: str, old: dict, new: dict) -> None:
    changed = [
        f"--{name}={old[name]} there, {new[name]} now"
        for name in new
        if name not in _FREE_SETTINGS and name in old and old[name] != new[name]
    ]
    if changed:
        raise UserError(
            f"--model_dir={directory}: holds a run with other settings ({_listed(changed)}); "
            "use those settings to go on with it, or another --model_dir."
        )


def write_json(path: str, content: Mapping) -> None:
    """Writes `content` whole or not at all."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with tf.io.gfile.GFile(temporary, "w") as file:
        file.write(json.dumps(content, indent=2) + "\n")
    tf.io.gfile.rename(temporary, path, overwrite=True)


def _flatten(tree: Mapping, prefix: str = "") -> dict[str, tf.Variable]:
    flat: dict[str, tf.Variable] = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _shape(variable: tf.Variable) -> tuple:
    return tuple(variable.shape)


def _listed(items: Iterable[str]) -> str:
    items = list(items)
    rest = f" and {len(items) - _MAX_LISTED} more" if len(items) > _MAX_LISTED else ""
    return ", ".join(items[:_MAX_LISTED]) + rest


def _first_line(error: BaseException) -> str:
    return (str(error).strip().split("\n") or [""])[0][:200] or type(error).__name__
