"""Weights that the authors released become a run of this program."""

import dataclasses
import logging
import os
import re
from collections.abc import Mapping

import tensorflow as tf

from tf_simclr.config import ExportConfig, ImportConfig, UserError
from tf_simclr.files import first_line, listed, write_json
from tf_simclr.interop.released_files import ReleasedFile, open_released
from tf_simclr.interop.released_network import ReleasedNetwork, infer_network, released_names
from tf_simclr.models import SimCLRModel, build_simclr_model
from tf_simclr.runs.checkpoint_list import latest_checkpoint
from tf_simclr.runs.directory import owning_directory, read_settings
from tf_simclr.terminal.entry import entry_point

_LOG = logging.getLogger("tf_simclr")
# Files of an import, and of what was done with it since.
_OWN_FILES = re.compile(
    r"checkpoint|ckpt-\d+\..*|(flags|result(_.*)?)\.json|result(_.*)?_confusion\.csv|(report|result_.*)\.html"
)
_MARK = "imported_from"


@entry_point
def import_weights(config: ImportConfig) -> ExportConfig:
    """Writes released weights into `model_dir`, as a checkpoint with the settings of its network.

    Args:
        config: which file, and where to.

    Returns:
        What exports the network.

    Raises:
        UserError: there is no such file, its variables do not match, or the directory is taken.
    """
    directory = os.path.expanduser(str(config.model_dir))
    _check_no_other_run(directory)
    file = open_released(str(config.checkpoint), ema=config.ema)
    network = infer_network(file, config.model, config.stated)
    _LOG.info("%s: %s.", file.where.removeprefix("--checkpoint="), network.describe())
    _check_same_variables(file, _shapes(network))
    # A file without a number of steps counts as one of one step: 0 would be a network that was not trained.
    step = file.step or 1
    settings = _settings(file, network, step, ema=config.ema)
    if config.overwrite or not _is_imported(directory, settings):
        model = build_simclr_model(network.config, network.num_classes)
        variables = released_names(model)
        for name, variable in variables.items():
            variable.assign(file.read(name))
        with owning_directory(directory):
            _check_no_other_run(directory)  # One may have begun meanwhile.
            _write(directory, model, settings, step)
        _LOG.info("Imported %d variables, step %d; files in %s", len(variables), step, directory)
    return ExportConfig(
        checkpoint=directory, keep_hub_module_max=config.keep_hub_module_max, overwrite=config.overwrite
    )


def _check_no_other_run(directory: str) -> None:
    settings = read_settings(directory)
    has_checkpoints = latest_checkpoint(directory) or tf.io.gfile.exists(os.path.join(directory, "checkpoint"))
    if (settings or has_checkpoints) and _MARK not in settings:
        raise UserError(f"--model_dir={directory}: holds checkpoints of another run; use another directory.")


def _is_imported(directory: str, settings: Mapping[str, object]) -> bool:
    """Returns whether the directory holds this network, of an import whose export may be missing.

    Raises:
        UserError: it holds another one.
    """
    there = read_settings(directory)
    if there and there != settings:
        raise UserError(
            f"--model_dir={directory}: holds another imported network; use another directory, or replace it with "
            "--overwrite=True."
        )
    return latest_checkpoint(directory) is not None


def _shapes(network: ReleasedNetwork) -> dict[str, tuple]:
    """Returns the shapes of the variables of a network by the authors' names."""
    with tf.Graph().as_default():  # Without weights: what a file says of itself may be beyond all memory.
        names = released_names(build_simclr_model(network.config, network.num_classes))
        return {name: tuple(variable.shape) for name, variable in names.items()}


def _check_same_variables(file: ReleasedFile, expected: Mapping[str, tuple]) -> None:
    """Raises UserError unless the file has these variables in these shapes, and no others."""
    missing, extra = (
        sorted(expected.keys() - file.shapes.keys()),
        sorted(file.shapes.keys() - expected.keys()),
    )
    shapes = []
    for name in sorted(expected.keys() & file.shapes.keys()):
        there, here = file.shapes[name], expected[name]
        if there != here:
            transposed = " transposed" if sorted(there) == sorted(here) else ""
            shapes.append(f"{name} {list(there)} instead of {list(here)}{transposed}")
    kinds = {"of other shape": shapes, "missing": missing, "extra": extra}
    parts = [f"{len(names)} {kind} ({listed(names)})" for kind, names in kinds.items() if names]
    if parts:
        raise UserError(
            f"{file.where}: does not match the network that it resembles; variables: {', '.join(parts)}; fetch the "
            "file again, or name one that the authors released."
        )


def _settings(file: ReleasedFile, network: ReleasedNetwork, step: int, *, ema: bool) -> dict[str, object]:
    return {
        **dataclasses.asdict(network.config),
        "train_mode": network.train_mode,
        "train_steps": step,
        _MARK: os.path.basename(os.path.normpath(file.where)),
        "imported_fingerprint": file.fingerprint,
        "imported_ema": ema,
    }


def _write(directory: str, model: SimCLRModel, settings: Mapping[str, object], step: int) -> None:
    """Writes settings and checkpoint; settings alone are none to a run that starts there."""
    counter = tf.Variable(step, dtype=tf.int64, trainable=False)
    checkpoint = tf.train.Checkpoint(model=model.variable_tree(), global_step=counter)
    try:
        tf.io.gfile.makedirs(directory)
        for name in tf.io.gfile.listdir(directory) if read_settings(directory) else ():
            if _OWN_FILES.fullmatch(name):
                tf.io.gfile.remove(os.path.join(directory, name))
        write_json(os.path.join(directory, "flags.json"), settings)
        manager = tf.train.CheckpointManager(checkpoint, directory, max_to_keep=1, checkpoint_name="ckpt")
        manager.save(checkpoint_number=step)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--model_dir={directory}: cannot be written ({first_line(error)}); free some space or use another "
            "directory."
        ) from error
