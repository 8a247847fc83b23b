"""Exporting: at the end of a run, and from a checkpoint."""

import functools
import logging
import os
import re
from collections.abc import Callable
from typing import Any

from exports.fold_batch_norm import check_size, write_folded
from exports.metadata import describe_export
from exports.retention import check_target, is_export, write_export
from exports.saved_model import copy_for_export, save_model
from tf_simclr.config import ExperimentConfig, ExportConfig, UserError
from tf_simclr.interop.pytorch import check_torchvision_has
from tf_simclr.models import SimCLRModel
from tf_simclr.runs.networks import find_checkpoint, is_saved_model, load_network
from tf_simclr.terminal.entry import entry_point
from tf_simclr.terminal.interrupts import interrupts_tell
from tf_simclr.terminal.progress import working

_LOG = logging.getLogger("tf_simclr")
# For another export of the same run: training is over, and need not be repeated.
_PATIENCE_SECONDS = 600
_WHAT_FITS = "name the directory of a run, or a ckpt-* in it"


class SavedModelExport:
    """The action that writes `saved_model/<step>` at the end of a run.

    Args:
        model_dir: directory of the run.
        keep: how many of the newest exports stay.
    """

    def __init__(self, model_dir: str, keep: int = 1):
        self._model_dir = model_dir
        self._folder = os.path.join(model_dir, "saved_model")
        self._keep = keep

    def check(self, total_steps: int) -> None:
        """Checks that the export can be written when training is over.

        Raises:
            UserError: something else is there.
        """
        check_target(self._folder, total_steps, overwrite=True)

    def __call__(self, event: Any) -> None:
        """Exports the model of a `LoopEvent` that is the last one, unless that was done before."""
        if not event.is_last or is_export(os.path.join(self._folder, str(event.step))):
            return
        model = event.task.model
        metadata = describe_export(model, self._model_dir, event.step, event.result)
        write = functools.partial(save_model, model, metadata=metadata)
        with working("exporting"):
            path = write_export(
                self._folder, event.step, write, keep=self._keep, overwrite=False, patience=_PATIENCE_SECONDS
            )
        _LOG.info("Exported %s.", path)


def export_actions(config: ExperimentConfig) -> list[SavedModelExport]:
    """Returns the action that exports a stage at its end; none if `keep_hub_module_max` is 0."""
    keep = config.keep_hub_module_max
    return [SavedModelExport(str(config.model_dir), keep)] if keep else []


@entry_point
def export_checkpoint(config: ExportConfig) -> list[str]:
    """Exports the network of a checkpoint in each of the configured formats.

    Args:
        config: what to export, and to where: `<format>/<step>` in `model_dir`, or else in the checkpoint's directory.

    Returns:
        The paths of the exports.

    Raises:
        UserError: there is no such checkpoint, or a format is not for this network.
    """
    named = "checkpoint" if config.checkpoint else "model_dir"
    path = os.path.expanduser(str(config.checkpoint or config.model_dir))
    if is_saved_model(path):
        raise UserError(f"--{named}={path}: is an export already; {_WHAT_FITS}.")
    checkpoint = find_checkpoint(path, named)
    step = _step_of(checkpoint, named)
    run = os.path.dirname(checkpoint)
    model_dir = os.path.expanduser(config.model_dir or run)
    folders = {name: os.path.join(model_dir, name) for name in config.formats}
    for folder in folders.values():
        check_target(folder, step, overwrite=config.overwrite)
    model = load_network(checkpoint, named)
    # All are checked before anything is written, so that the corrected command finds nothing in its way.
    writers = {name: _checked_writer(name, model) for name in config.formats}
    metadata = describe_export(model, run, step)
    if model.num_classes is None:
        _LOG.info("%s has no supervised head: its exports have neither logits_sup nor probabilities.", checkpoint)
    if model.config.precision != model.config.variable_dtype:
        model = copy_for_export(model)
    paths: list[str] = []
    with interrupts_tell(lambda: f"exported: {', '.join(paths)}" if paths else None):
        for name, folder in folders.items():
            write = functools.partial(writers[name], model, metadata=metadata)
            keep, overwrite = config.keep_hub_module_max, config.overwrite
            with working(f"exporting {name}"):
                paths.append(write_export(folder, step, write, keep=keep, overwrite=overwrite))
            _LOG.info("Exported %s.", paths[-1])
    return paths


def _checked_writer(name: str, model: SimCLRModel) -> Callable[..., None]:
    """Returns the function (model, directory, metadata) that writes a format, if it can write `model`."""
    # The converters are big packages, some of them optional.
    match name:
        case "folded":
            return write_folded
        case "tflite":
            from exports.tflite import write_tflite

            check_size(model, name)
            return write_tflite
        case "onnx":
            from exports.onnx import check_onnx_package, write_onnx

            check_onnx_package()
            check_size(model, name)
            return write_onnx
        case "pytorch":
            from exports.pytorch import write_pytorch

            check_torchvision_has(model.config)
            return write_pytorch
    return save_model


def _step_of(checkpoint: str, flag: str) -> int:
    match = re.fullmatch(r"ckpt-(\d+)", os.path.basename(checkpoint))
    if match is None:
        raise UserError(f"--{flag}={checkpoint}: no checkpoint of a run; {_WHAT_FITS}.")
    return int(match[1])
