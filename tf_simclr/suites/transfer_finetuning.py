"""Finetuning a network on another data set: SimCLR (arXiv 2002.05709), appendix B.8."""

import dataclasses
import json
import os
from typing import Any

import tensorflow as tf

from tf_simclr.config import (
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    KnnEvalConfig,
    ModelConfig,
    TransferConfig,
    UserError,
)
from tf_simclr.evaluation.features import Network, digest, load_inference_network
from tf_simclr.evaluation.probe_inputs import compute_examples, open_sources
from tf_simclr.files import first_line
from tf_simclr.interop.saved_models import read_metadata
from tf_simclr.metrics.scores import classification_scores
from tf_simclr.runs.directory import defining_settings, read_settings
from tf_simclr.runs.networks import is_saved_model
from tf_simclr.suites.transfer_datasets import TransferDataset
from tf_simclr.training.experiment import Experiment

_AVERAGED_STEPS = 10
_MIN_DECAY = 0.9


def finetune(
    config: TransferConfig,
    network: Network,
    directory: str,
    strategy: tf.distribute.Strategy,
    dataset: TransferDataset,
) -> dict[str, Any]:
    """Finetunes a network on the labelled images of a data set; continues an interrupted run.

    Args:
        config: configuration of the suite.
        network: network to start from.
        directory: directory of the suite, which gets a directory for the run.
        strategy: strategy to train with.
        dataset: data set with one class an image.

    Returns:
        The scores on its test images, and the directory of the run.

    Raises:
        UserError: a flag, a file or the data is wrong.
    """
    data = dataclasses.replace(
        config.data, dataset=dataset.dataset, train_split=dataset.all_labelled, eval_split=dataset.test
    )
    reading = KnnEvalConfig(
        data=data, checkpoint=config.checkpoint, endpoint="logits_sup", eval_batch_size=config.eval_batch_size
    )
    sources = open_sources(reading)
    step = make_step(config, network, data, num_examples=sources.train.num_examples, directory=directory)
    run = Experiment(step, strategy)
    run.check_memory()
    trained = run.train(())
    test = compute_examples(reading, load_inference_network(str(step.model_dir)), sources.test)
    return classification_scores(test.features, test.labels) | {
        "num_examples": len(test.labels),
        "num_train_examples": sources.train.num_examples,
        "global_step": trained["global_step"],
        "run": str(step.model_dir),
    }


def make_step(
    config: TransferConfig, network: Network, data: DataConfig, *, num_examples: int, directory: str
) -> ExperimentConfig:
    """Returns the configuration of the finetuning on one data set.

    Args:
        config: configuration of the suite.
        network: network to start from.
        data: images to learn from.
        num_examples: number of these images.
        directory: directory of the suite. The data set and the settings name the directory of the run in it, so that
            runs with other settings do not collide.
    """
    model = network_config(config, network)
    if "batch_norm_decay" not in config.stated:
        steps_per_epoch = num_examples / config.train.train_batch_size
        decay = max(1 - _AVERAGED_STEPS / steps_per_epoch, _MIN_DECAY)
        model = dataclasses.replace(model, batch_norm_decay=decay)
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in data.dataset)
    own = {"weights": network.fingerprint, "dataset": data.dataset, "train_split": data.train_split}
    settings = json.dumps(own | finetuning_settings(config, network), sort_keys=True)
    return ExperimentConfig(
        mode="train",
        model_dir=os.path.join(directory, f"{name}-{digest([settings.encode()])[:8]}"),
        keep_hub_module_max=0,
        data=data,
        model=model,
        augment=config.augment,
        optimizer=config.optimizer,
        train=dataclasses.replace(config.train, checkpoint=network.path),
        evaluation=EvaluationConfig(eval_batch_size=config.eval_batch_size),
        strategy=config.strategy,
    )


def network_config(config: TransferConfig, network: Network) -> ModelConfig:
    """Returns the settings of the network to finetune: the stated ones, and its own for the others.

    Unless stated otherwise, the classifier sits on the encoder's output, and everything is trained.
    """
    if is_saved_model(network.path):
        settings = read_metadata(network.path, "checkpoint").get("settings", {})
    else:
        settings = read_settings(os.path.dirname(network.path))
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    of_task = {"ft_proj_selector", "fine_tune_after_block", "zero_init_logits_layer"}
    kept = fields.intersection(settings) - of_task - set(config.stated)
    try:
        return dataclasses.replace(config.model, **{name: settings[name] for name in kept})
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"--checkpoint={config.checkpoint}: its settings are damaged ({first_line(error)}); name another network."
        ) from error


def finetuning_settings(config: TransferConfig, network: Network) -> dict[str, Any]:
    """Returns the settings that the result of a finetuning depends on, besides the weights and the data set."""
    model = dataclasses.asdict(network_config(config, network))
    if "batch_norm_decay" not in config.stated:
        del model["batch_norm_decay"]  # The data set determines it.
    groups = (config.augment, config.optimizer, config.train)
    settings = defining_settings(model | {k: v for g in groups for k, v in dataclasses.asdict(g).items()})
    settings.pop("checkpoint")  # The fingerprint of the weights stands for it.
    return settings
