"""Import of weights that the authors released, as a run of this program."""

import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tf_simclr.config import ExportConfig, ImportConfig, UserError
from tf_simclr.files import first_line, write_json
from tf_simclr.interop.released_files import ReleasedFile, Shape, open_released
from tf_simclr.interop.released_network import ReleasedNetwork, infer_network, released_names
from tf_simclr.models import SimCLRModel, build_simclr_model
from tf_simclr.runs.checkpoint_list import latest_checkpoint
from tf_simclr.runs.directory import owning_directory, read_settings
from tf_simclr.runs.network_differences import list_differences
from tf_simclr.terminal.entry import entry_point

_LOG = logging.getLogger("tf_simclr")
# Files that an import writes, and later commands on the imported network.
_OWN_FILES = re.compile(
    r"checkpoint|ckpt-\d+\..*|(flags|result(_.*)?)\.json|result(_.*)?_confusion\.csv|(report|result_.*)\.html"
)
_MARK = "imported_from"


@entry_point
def import_weights(config: ImportConfig) -> ExportConfig:
    """Writes released weights into `model_dir`, as a checkpoint with the settings of its network.

    Returns:
        The configuration that exports the network.

    Raises:
        UserError: if there is no such file, its variables do not match, or the directory is taken.
    """
    directory = os.path.expanduser(str(config.model_dir))
    _check_no_other_run(directory)
    file = open_released(str(config.checkpoint), ema=config.ema)
    network = infer_network(file, config.model, config.stated)
    _LOG.info("%s: %s.", file.path, network.describe())
    if differences := list_differences(file.shapes, expected_shapes(network)):
        raise UserError(
            f"{file.where}: does not match the network that it resembles; variables: {differences}; fetch the file "
            "again, or name one that the authors released."
        )
    step = file.step or 1  # 0 would be an untrained network.
    settings = {
        **dataclasses.asdict(network.config),
        "train_mode": network.train_mode,
        "train_steps": step,
        _MARK: os.path.basename(os.path.normpath(file.path)),
        "imported_fingerprint": file.fingerprint,
        "imported_ema": config.ema,
    }
    if config.overwrite or not _is_imported(directory, settings):
        model = build_network(file, network)
        with owning_directory(directory):
            _check_no_other_run(directory)  # One may have begun meanwhile.
            _write(directory, model, settings, step)
        _LOG.info("Imported %d variables, step %d; files in %s", len(file.shapes), step, directory)
    return ExportConfig(
        checkpoint=directory, keep_hub_module_max=config.keep_hub_module_max, overwrite=config.overwrite
    )


def _check_no_other_run(directory: str) -> None:
    settings = read_settings(directory)
    has_checkpoints = latest_checkpoint(directory) or tf.io.gfile.exists(os.path.join(directory, "checkpoint"))
    if (settings or has_checkpoints) and _MARK not in settings:
        raise UserError(f"--model_dir={directory}: holds checkpoints of another run; use another directory.")


def _is_imported(directory: str, settings: Mapping[str, object]) -> bool:
    """Returns whether the directory holds the checkpoint of this network; its export may be missing.

    Raises:
        UserError: if it holds another network.
    """
    there = read_settings(directory)
    if there and there != settings:
        raise UserError(
            f"--model_dir={directory}: holds another imported network; use another directory, or replace it with "
            "--overwrite=True."
        )
    return latest_checkpoint(directory) is not None


def expected_shapes(network: ReleasedNetwork) -> dict[str, Shape]:
    """Returns the shapes of the variables of a network by the authors' names."""
    with tf.Graph().as_default():  # It allocates no weights: a file can claim a network larger than the memory.
        names = released_names(build_simclr_model(network.config, network.num_classes))
        return {name: tuple(variable.shape) for name, variable in names.items()}


def build_network(file: ReleasedFile, network: ReleasedNetwork) -> SimCLRModel:
    """Builds a network with the weights in a file, which must match."""
    model = build_simclr_model(network.config, network.num_classes)
    for name, variable in released_names(model).items():
        variable.assign(file.read(name))
    return model


def _write(directory: str, model: SimCLRModel, settings: Mapping[str, Any], step: int) -> None:
    """Replaces an earlier import by settings and checkpoint, in an order that a stopped import can repeat."""
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
