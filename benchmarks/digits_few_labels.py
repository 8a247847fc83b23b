"""The whole method on the digits with few labels: every step and its baselines over fixed draws of the labels.

python -m benchmarks.digits_few_labels [--num_draws=20] [--num_seeds=1] [--labels=1,10] [--validate]

Other flags are those of run.py; the recipe is that of `python run.py --mode=train_then_eval`. Each seed pretrains a
network, without labels, and has draws of its own: draw d of seed s takes the labels of `--label_seed=n`, where n is
s * num_draws + d. All methods see the same labels, whatever their flags are, so differences are paired. With
--validate the training images are train[:80%] and the figures are those of train[80%:]: for choosing recipes; the
test images are used only without it. `benchmarks.compare` sets the results of several commands side by side.

Networks are compiled once and started anew for each draw, with the weights, the batches and the steps that the
runs of run.py have.
"""

import argparse
import dataclasses
import gc
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from flags.convert import parse_command_line
from tf_simclr.config import ExperimentConfig, ModelConfig, SemiSupervisedConfig, UserError, check

METHODS = ("finetuned", "supervised", "finetuned from random", "distilled", "self-distilled")


class Trainer:
    """A task that is compiled once and trained for many draws of the labels.

    Args:
        config: of the step.
        make_task: takes the learning-rate schedule; None for the task that run.py makes of the step.
        pretrained: whether training starts from the checkpoint of the step, else from fresh weights.
    """

    def __init__(self, config: ExperimentConfig, make_task: Callable | None = None, pretrained: bool = False):
        from tf_simclr.ingredients import make_ingredients
        from tf_simclr.planning import make_plan, make_schedule
        from tf_simclr.strategies import make_strategy
        from tf_simclr.train import make_train_function

        self._config = config
        ingredients = make_ingredients(config, 1)
        num_examples = ingredients.source.num_examples
        self._steps = make_plan(config, num_examples).total_steps
        make_task = make_task or ingredients.make_task
        self._task = make_task(make_schedule(config, num_examples, self._steps))
        self.model = self._task.model
        if pretrained:
            ingredients.initialize(self.model)
        self._start = [variable.numpy() for variable in self.model.variables]
        self._run = make_train_function(self._task, make_strategy(config.strategy))

    def train(self, draw: int) -> None:
        """Trains anew with the labels of a draw."""
        import tensorflow as tf

        from tf_simclr.data import BatchPlan
        from tf_simclr.ingredients import make_ingredients, training_batches

        for variable, value in zip(self.model.variables, self._start, strict=True):
            variable.assign(value)
        optimizer = self._task.optimizer
        variables = optimizer.variables() if callable(optimizer.variables) else optimizer.variables
        for variable in variables:
            if "learning_rate" not in variable.name:
                variable.assign(tf.zeros_like(variable))
        data = dataclasses.replace(self._config.data, label_seed=draw)
        config = dataclasses.replace(self._config, data=data)
        ingredients = make_ingredients(config, 1)
        plan = BatchPlan(global_batch_size=config.train.train_batch_size)
        batches = training_batches(config, ingredients, plan, num_views=self._task.num_views, first_step=0)
        metrics, _ = self._run(iter(batches), tf.constant(self._steps))
        if not np.isfinite(float(metrics["total_loss"])):
            raise RuntimeError(f"{config.train.train_mode} diverged in draw {draw}")


class FewLabels:
    """All methods with one number of labels a class.

    Args:
        config: of the whole method, with `labels_per_class`.
        wanted: those of `METHODS` to train.
    """

    def __init__(self, config: SemiSupervisedConfig, wanted: Sequence[str] = METHODS):
        import tensorflow as tf

        from tf_simclr.augment import EvalView
        from tf_simclr.data import load_source
        from tf_simclr.models import build_simclr_model
        from tf_simclr.tasks.distill import DistillTask

        check(
            config.distill.distill.distill_alpha == 1,
            "distill_alpha",
            config.distill.distill.distill_alpha,
            "this benchmark distills without labels; use 1.",
        )
        data = config.finetune.data
        self._data = data
        self._train = load_source(data, data.labelled_split)
        self.held_out = load_source(data, data.eval_split, flag="eval_split")
        view = EvalView(image_size=config.finetune.model.image_size)
        self._images = view.crop_batch(self.held_out.images)
        finetuned = Trainer(config.finetune, pretrained=True)
        # Before anything trains it, this is the pretrained network.
        self._features = [
            finetuned.model.forward(images, training=False).endpoints["final_avg_pool"].numpy()
            for images in (view.crop_batch(self._train.images), self._images)
        ]

        def student(model_config: ModelConfig) -> Trainer:
            """Returns the trainer of a network that is taught by the finetuned one."""
            step = dataclasses.replace(config.distill, model=model_config)

            def make_task(schedule):
                tf.keras.utils.set_random_seed(step.train.seed)
                model = build_simclr_model(model_config, self._train.num_classes)
                model.freeze_for_finetuning()
                return DistillTask(model, step.optimizer, schedule, step.distill, teacher=teacher_logits)

            return Trainer(step, make_task)

        def teacher_logits(images):
            return finetuned.model.forward(images, training=False).endpoints["logits_sup"]

        own = dataclasses.replace(config.distill.model, width_multiplier=config.finetune.model.width_multiplier)
        makers: dict[str, Callable[[], Trainer]] = {
            "finetuned": lambda: finetuned,
            "supervised": lambda: Trainer(config.supervised),
            "finetuned from random": lambda: Trainer(config.finetune),
            "distilled": lambda: student(config.distill.model),
            "self-distilled": lambda: student(own),
        }
        self.trainers = {name: makers[name]() for name in METHODS if name in wanted}

    def accuracies(self, draw: int) -> dict[str, float]:
        """Returns the accuracy of every method on the held-out images, in percent.

        Args:
            draw: seed of the choice of labels.
        """
        accuracies = {}
        for name, trainer in self.trainers.items():
            trainer.train(draw)
            logits = trainer.model.forward(self._images, training=False).endpoints["logits_sup"].numpy()
            accuracies[name] = 100 * np.mean(logits.argmax(1) == self.held_out.labels)
        return accuracies | self._without_training(draw)

    def _without_training(self, draw: int) -> dict[str, float]:
        """Returns the accuracies of scikit-learn's classifiers of frozen features and of pixels."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler
        from sklearn.semi_supervised import LabelSpreading

        from tf_simclr.data import choose_labelled

        train = self._train.images.reshape(self._train.num_examples, -1) / 255.0
        held_out = self.held_out.images.reshape(self.held_out.num_examples, -1) / 255.0
        per_class = self._data.labels_per_class
        chosen = choose_labelled(self._train.labels, self._train.num_classes, per_class=per_class, seed=draw)
        labels = np.full(len(train), -1)
        labels[chosen] = self._train.labels[chosen]
        features, held_out_features = self._features
        # The statistics need no labels: those of all training images.
        scaler = StandardScaler().fit(features)
        linear = LogisticRegression(max_iter=5000).fit(scaler.transform(features[chosen]), labels[chosen])
        regression = LogisticRegression(max_iter=5000).fit(train[chosen], labels[chosen])
        spreading = LabelSpreading(kernel="knn", n_neighbors=7, max_iter=100).fit(train, labels)
        true = self.held_out.labels
        return {
            "logistic regression, frozen encoder": 100 * linear.score(scaler.transform(held_out_features), true),
            "logistic regression, raw pixels": 100 * regression.score(held_out, true),
            "label spreading, raw pixels": 100 * spreading.score(held_out, true),
        }


def print_table(results: dict[str, np.ndarray]) -> None:
    """Prints means, standard deviations, and paired differences of the first with their 95% intervals."""
    from scipy import stats

    first = next(iter(results))
    print(f"| | mean | sd | {first} minus this, 95% interval |")
    print("| --- | --- | --- | --- |")
    for name, values in results.items():
        cells = [f"{values.mean():.2f}", f"{values.std(ddof=1):.2f}" if len(values) > 1 else "-", ""]
        if name != first and len(values) > 1:
            difference = results[first] - values
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(difference)
            mean = difference.mean()
            cells[2] = f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"
        print(f"| {name} | " + " | ".join(cells) + " |")


def measure_seed(config: SemiSupervisedConfig, options: argparse.Namespace, seed: int) -> dict[str, list[float]]:
    """Pretrains, unless that is done, and returns the accuracies of each method for each draw, in percent."""
    import tensorflow as tf

    from tf_simclr import train_and_evaluate

    if "pretrain" in config.steps:
        train_and_evaluate(config.pretrain)
    methods = FewLabels(config, options.methods)
    results: dict[str, list[float]] = {}
    count = config.finetune.data.labels_per_class
    for draw in range(seed * options.num_draws, (seed + 1) * options.num_draws):
        start = time.perf_counter()
        accuracies = methods.accuracies(draw)
        listed = ", ".join(f"{name} {value:.2f}" for name, value in accuracies.items())
        print(f"{count} a class, draw {draw}, {time.perf_counter() - start:.0f} s: {listed}", flush=True)
        for name, value in accuracies.items():
            results.setdefault(name, []).append(float(value))
    del methods
    tf.keras.backend.clear_session()
    gc.collect()
    return results


def parse_options() -> tuple[argparse.Namespace, list[str]]:
    """Returns the options of this program and the flags of run.py."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--num_draws", type=int, default=20, help="of the labels, for each seed")
    parser.add_argument("--num_seeds", type=int, default=1, help="of pretraining and of all else: 0, 1, ...")
    parser.add_argument("--labels", default="1,10", help="labels of each class")
    parser.add_argument("--methods", default=",".join(METHODS), help="to train only these of %(default)s; or none")
    parser.add_argument("--validate", action="store_true", help="train[:80%%] and train[80%%:], not the test images")
    parser.add_argument("--work_dir", default=None, help="keeps the pretrained networks, one for each seed")
    parser.add_argument("--results", default=None, help="a JSON file for all accuracies")
    options, rest = parser.parse_known_args(sys.argv[1:])
    options.methods = [] if options.methods == "none" else options.methods.split(",")
    if unknown := set(options.methods) - set(METHODS):
        parser.error(f"--methods: no {', '.join(sorted(unknown))}; use some of {', '.join(METHODS)}.")
    return options, rest


def main() -> None:
    """Prints a table for each number of labels."""
    options, rest = parse_options()
    directory = options.work_dir or tempfile.mkdtemp(prefix="digits_few_labels_")
    splits = ["--train_split=train[:80%]", "--eval_split=train[80%:]"] if options.validate else []

    def config_of(labels: str, seed: int) -> SemiSupervisedConfig:
        own = [f"--labels_per_class={labels}", f"--seed={seed}", f"--model_dir={directory}/seed_{seed}"]
        config, _ = parse_command_line(["--mode=semi_supervised", *splits, *rest, *own])
        return cast(SemiSupervisedConfig, config)

    if options.results:
        os.makedirs(os.path.dirname(options.results) or ".", exist_ok=True)
    labels, seeds = options.labels.split(","), range(options.num_seeds)
    configs = {count: [config_of(count, seed) for seed in seeds] for count in labels}
    # By the number of labels and the method: the accuracies of the draws of each seed.
    results: dict[str, dict[str, list[list[float]]]] = {}
    for count, of_seeds in configs.items():
        measured = [measure_seed(config, options, seed) for seed, config in enumerate(of_seeds)]
        results[count] = {name: [of_seed[name] for of_seed in measured] for name in measured[0]}
        print(f"\nlabels a class: {count}, {options.num_seeds} seeds of {options.num_draws} draws")
        print_table({name: np.concatenate(values) for name, values in results[count].items()})
    if options.results:
        command = shlex.join(["python", "-m", "benchmarks.digits_few_labels", *sys.argv[1:]])
        with open(options.results, "w") as file:
            json.dump({"command": command, "labels": results}, file, indent=1)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
