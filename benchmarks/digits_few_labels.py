"""The whole method on the digits with few labels: every step and its baselines over fixed draws of the labels.

python -m benchmarks.digits_few_labels [--num_draws=20] [--labels=1,10] [--validate] [--work_dir=PATH]

Other flags are those of run.py; the recipe is that of `python run.py --mode=train_then_eval`. The network is
pretrained once, without labels; draw d takes the labels that --label_seed=d chooses. All methods see the same
labels, so differences are paired. With --validate the training images are train[:80%] and the figures are those
of train[80%:]: for choosing recipes; the test images are used only without it.

Networks are compiled once and started anew for each draw, with the weights, the batches and the steps that the
runs of run.py have.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import cast

import numpy as np

from flags.convert import parse_command_line
from tf_simclr.config import ExperimentConfig, ModelConfig, SemiSupervisedConfig, check


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
    """

    def __init__(self, config: SemiSupervisedConfig):
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
        self._train = load_source(data, data.train_split)
        self.held_out = load_source(data, data.eval_split, flag="eval_split")
        view = EvalView(image_size=config.finetune.model.image_size)
        self._images = view.crop_batch(self.held_out.images)

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
            return self.trainers["finetuned"].model.forward(images, training=False).endpoints["logits_sup"]

        self.trainers = {
            "finetuned": Trainer(config.finetune, pretrained=True),
            "supervised": Trainer(config.supervised),
            "finetuned from random": Trainer(config.finetune),
            "distilled": student(config.distill.model),
        }
        own = dataclasses.replace(
            config.distill.model, width_multiplier=config.finetune.model.width_multiplier
        )
        self.trainers["self-distilled"] = student(own)

    def accuracies(self, draw: int) -> dict[str, float]:
        """Returns the accuracy of every method on the held-out images, in percent."""
        accuracies = {}
        for name, trainer in self.trainers.items():
            trainer.train(draw)
            logits = trainer.model.forward(self._images, training=False).endpoints["logits_sup"].numpy()
            accuracies[name] = 100 * np.mean(logits.argmax(1) == self.held_out.labels)
        return accuracies | self._raw_pixels(draw)

    def _raw_pixels(self, draw: int) -> dict[str, float]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.semi_supervised import LabelSpreading

        from tf_simclr.data import choose_labelled

        train = self._train.images.reshape(self._train.num_examples, -1) / 255.0
        held_out = self.held_out.images.reshape(self.held_out.num_examples, -1) / 255.0
        per_class = self._data.labels_per_class
        chosen = choose_labelled(self._train.labels, self._train.num_classes, per_class=per_class, seed=draw)
        labels = np.full(len(train), -1)
        labels[chosen] = self._train.labels[chosen]
        regression = LogisticRegression(max_iter=5000).fit(train[chosen], labels[chosen])
        spreading = LabelSpreading(kernel="knn", n_neighbors=7, max_iter=100).fit(train, labels)
        return {
            "logistic regression, raw pixels": 100 * regression.score(held_out, self.held_out.labels),
            "label spreading, raw pixels": 100 * spreading.score(held_out, self.held_out.labels),
        }


def print_table(results: dict[str, np.ndarray]) -> None:
    """Prints means, standard deviations, and paired differences of the finetuned with their 95% intervals."""
    from scipy import stats

    print("| | mean | sd | finetuned minus this, 95% interval |")
    print("| --- | --- | --- | --- |")
    for name, values in results.items():
        cells = [f"{values.mean():.2f}", f"{values.std(ddof=1):.2f}" if len(values) > 1 else "-", ""]
        if name != "finetuned" and len(values) > 1:
            difference = results["finetuned"] - values
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(difference)
            mean = difference.mean()
            cells[2] = f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Prints a table for each number of labels."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--num_draws", type=int, default=20)
    parser.add_argument("--labels", default="1,10", help="labels of each class")
    parser.add_argument("--methods", default="", help="only these, such as finetuned,distilled")
    parser.add_argument(
        "--validate", action="store_true", help="train[:80%%] and train[80%%:], not the test images"
    )
    parser.add_argument("--work_dir", default=None, help="keeps the pretrained network")
    options, rest = parser.parse_known_args(sys.argv[1:])
    directory = options.work_dir or tempfile.mkdtemp(prefix="digits_few_labels_")
    splits = ["--train_split=train[:80%]", "--eval_split=train[80%:]"] if options.validate else []

    def config_of(labels: str) -> SemiSupervisedConfig:
        arguments = [*splits, *rest, f"--labels_per_class={labels}", f"--model_dir={directory}"]
        config, _ = parse_command_line(["--mode=semi_supervised", *arguments])
        return cast(SemiSupervisedConfig, config)

    configs = {count: config_of(count) for count in options.labels.split(",")}
    from tf_simclr import train_and_evaluate

    for config in configs.values():
        if "pretrain" in config.steps:
            train_and_evaluate(config.pretrain)
    for count, config in configs.items():
        methods = FewLabels(config)
        if options.methods:
            wanted = options.methods.split(",")
            methods.trainers = {k: v for k, v in methods.trainers.items() if k in wanted}
        rows = []
        for draw in range(options.num_draws):
            start = time.perf_counter()
            rows.append(methods.accuracies(draw))
            listed = ", ".join(f"{name} {value:.2f}" for name, value in rows[-1].items())
            print(f"{count} a class, draw {draw}, {time.perf_counter() - start:.0f} s: {listed}", flush=True)
        print(f"\nlabels a class: {count}, {len(rows)} draws, {methods.held_out.num_examples} images")
        print_table({name: np.array([row[name] for row in rows]) for name in rows[0]})


if __name__ == "__main__":
    main()
