"""Rules for keeping the supervised head of the checkpoint that a run starts from."""

import os

import tensorflow as tf

from tf_simclr.config import DataConfig, ExperimentConfig, absolute_dataset
from tf_simclr.data import Source
from tf_simclr.runs.data import read_run_data
from tf_simclr.runs.directory import read_settings
from tf_simclr.training.teacher import network_class_names


def has_same_classes(config: ExperimentConfig, source: Source) -> bool:
    """Returns False if the checkpoint's head is known to have other classes than the images, or another order."""
    names = network_class_names(str(config.train.checkpoint), "checkpoint")
    return names is None or source.class_names in (None, tuple(names))


def may_keep_head(config: ExperimentConfig, source: Source) -> bool:
    """Returns True if the checkpoint's head was trained on the same layer and on the same labels."""
    if config.model.zero_init_logits_layer or not has_same_classes(config, source):
        return False
    checkpoint = os.path.expanduser(str(config.train.checkpoint))
    directory = checkpoint if tf.io.gfile.isdir(checkpoint) else os.path.dirname(checkpoint)
    settings = read_settings(directory)
    ours: dict[str, object] = {"ft_proj_selector": config.model.ft_proj_selector}
    # A student may see the labels that its teacher has seen: self-distillation starts from the teacher.
    if config.train.checkpoint != config.distill.teacher:
        if settings.get("train_mode") == "pretrain" and (config.train.has_teacher or config.data.few_labels):
            return False  # A probe has seen all labels.
        names = ("label_fraction", "labels_per_class", "label_seed")
        ours |= {name: getattr(config.data, name) for name in names}
        ours["train_split"] = config.data.labelled_split
        learned_from = read_run_data(directory)
        # The same images may lie elsewhere now.
        moved = learned_from is not None and learned_from.fingerprint == source.fingerprint()
        theirs = absolute_dataset(str(settings.get("dataset")))
        if not moved and theirs != absolute_dataset(config.data.dataset):
            return False
    known = settings | {"train_split": settings.get("train_split") or DataConfig().labelled_split}
    return known.items() >= ours.items()
