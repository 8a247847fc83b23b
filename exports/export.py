"""Exporting: at the end of a run, and from a checkpoint."""

import functools
import logging
import os
import re
from collections.abc import Callable

from exports.metadata import describe_export
from exports.retention import is_export, write_export
from exports.saved_model import copy_for_export, save_model
from tf_simclr.checkpoint import find_checkpoint, is_saved_model, load_network
from tf_simclr.config import ExportConfig, UserError

_LOG = logging.getLogger("tf_simclr")
_WHAT_FITS = "name the directory of a run, or a ckpt-* in it"


class SavedModelExport:
    """The action that writes `saved_model/<step>` at the end of a run.

    Args:
        model_dir: directory of the run.
        keep: how many of the newest exports stay.
    """

    def __init__(self, model_dir: str, keep: int = 1):
        self._model_dir = model_dir
        self._keep = keep

    def __call__(self, event) -> None:
        """Exports the model of a `LoopEvent` that is the last one, unless that was done before."""
        folder = os.path.join(self._model_dir, "saved_model")
        if not event.is_last or is_export(os.path.join(folder, str(event.step))):
            return
        model = event.task.model
        metadata = describe_export(model, self._model_dir, event.step, event.result)
        path = write_export(
            folder,
            event.step,
            functools.partial(save_model, model, metadata=metadata),
            keep=self._keep,
            overwrite=False,
        )
        _LOG.info("Exported %s.", path)


def export_checkpoint(config: ExportConfig) -> list[str]:
    """Exports the network of a checkpoint in each of the configured formats.

    Args:
        config: what to export, and to where: `<format>/<step>` in `model_dir`, or else in the directory
            of the checkpoint.

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
    model = load_network(checkpoint, named)
    metadata = describe_export(model, run, step)
    if model.num_classes is None:
        _LOG.info(
            "%s has no supervised head: its exports have neither logits_sup nor probabilities.", checkpoint
        )
    if model.config.precision != model.config.variable_dtype:
        model = copy_for_export(model)
    model_dir = os.path.expanduser(config.model_dir or run)
    paths = []
    for name in config.formats:
        write = functools.partial(_writer(name), model, metadata=metadata)
        keep, overwrite = config.keep_hub_module_max, config.overwrite
        folder = os.path.join(model_dir, name)
        paths.append(write_export(folder, step, write, keep=keep, overwrite=overwrite))
        _LOG.info("Exported %s.", paths[-1])
    return paths


def _writer(name: str) -> Callable[..., None]:
    """Returns the function (model, directory, metadata) that writes a format."""
    # The converters are big packages, some of them optional.
    match name:
        case "folded":
            from exports.fold_batch_norm import write_folded

            return write_folded
        case "tflite":
            from exports.tflite import write_tflite

            return write_tflite
        case "onnx":
            from exports.onnx import write_onnx

            return write_onnx
        case "pytorch":
            from exports.pytorch import write_pytorch

            return write_pytorch
    return save_model


def _step_of(checkpoint: str, flag: str) -> int:
    match = re.fullmatch(r"ckpt-(\d+)", os.path.basename(checkpoint))
    if match is None:
        raise UserError(f"--{flag}={checkpoint}: no checkpoint of a run; {_WHAT_FITS}.")
    return int(match[1])
