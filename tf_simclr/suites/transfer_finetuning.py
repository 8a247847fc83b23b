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

_STEPS_OF_AVERAGE = 10
_LEAST_DECAY = 0.9


def finetune(
    config: TransferConfig,
    network: Network,
    directory: str,
    strategy: tf.distribute.Strategy,
    dataset: TransferDataset,
) -> dict[str, Any]:
    """Finetunes a network on the labelled images of a data set; goes on where it was stopped.

    Args:
        config: of the suite.
        network: to start from.
        directory: of the suite; the run is in a directory of its own in there.
        strategy: to train with.
        dataset: the data set, each image of which has one class.

    Returns:
        The scores on its test images, and the directory of the run.

    Raises:
        UserError: a flag, a file or the data is wrong.
    """
    data = dataclasses.replace(
        config.data, dataset=dataset.dataset, train_split=dataset.all_labelled, eval_split=dataset.test
    )
    reading = KnnEvalConfig(
        data=data,
        checkpoint=config.checkpoint,
        endpoint="logits_sup",
        eval_batch_size=config.eval_batch_size,
    )
    sources = open_sources(reading)
    step = make_step(config, network, data, num_examples=sources.train.num_examples, directory=directory)
    run = Experiment(step, strategy)
    run.check_memory()
    trained = run.train(())
    finetuned = load_inference_network(str(step.model_dir))
    test = compute_examples(reading, finetuned, sources.test)
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
        config: of the suite.
        network: to start from.
        data: what to learn from.
        num_examples: of it.
        directory: of the suite. That of the run is in there, and named by the data set and the settings: a run with
            others, which would be gone on with, or be in the way, is elsewhere.
    """
    model = network_config(config, network)
    if "batch_norm_decay" not in config.stated:
        steps_per_epoch = num_examples / config.train.train_batch_size
        decay = max(1 - _STEPS_OF_AVERAGE / steps_per_epoch, _LEAST_DECAY)
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
    """Returns the settings of the network to finetune: those that were stated, else those that it was made with.

    The classifier sits on the encoder's output, and everything is trained, unless stated otherwise.
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
    """Returns what the result of a finetuning depends on, beside the weights and the data set."""
    model = dataclasses.asdict(network_config(config, network))
    if "batch_norm_decay" not in config.stated:
        del model["batch_norm_decay"]  # Follows from the data set.
    groups = (config.augment, config.optimizer, config.train)
    settings = defining_settings(model | {k: v for g in groups for k, v in dataclasses.asdict(g).items()})
    settings.pop("checkpoint")  # The weights say it.
    return settings
