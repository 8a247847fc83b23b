"""Sections of a report, as HTML. A sentence replaces missing content."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_simclr.augment import EvalView
from tf_simclr.config import ExperimentConfig
from tf_simclr.data import BatchPlan, eval_dataset, load_eval_source
from tf_simclr.evaluation.feature_batches import extract_features
from tf_simclr.evaluation.features import sample_source
from tf_simclr.files import counted
from tf_simclr.rendering import html, plots
from tf_simclr.rendering.scores import DASH, SCORE_HEADINGS, score_cells
from tf_simclr.report.events import Events
from tf_simclr.runs.networks import load_network
from tf_simclr.training.loop_plan import chance_loss

Steps = Mapping[str, ExperimentConfig]
Result = Mapping[str, Any]

_MAX_IMAGES = 1000
_SMALL_PICTURE = 700


def describe_run(steps: Steps, results: Mapping[str, Sequence[Result]]) -> str:
    """Returns a sentence that describes the stages; see `results_table`."""
    about = []
    for name, step in steps.items():
        labels = _labels_used(step, results.get(name, ()), noun="label")
        about.append(
            {
                "pretrain": "contrastive pretraining on images without labels",
                "finetune": f"finetuning on {labels}",
                "distill": "distillation from a teacher",
                "supervised": f"a supervised baseline on {labels}, from scratch",
            }[name]
        )
    *most, last = about
    sentence = f"{', '.join(most)}, and {last}" if most else last
    return f"{sentence[0].upper()}{sentence[1:]}."


def results_table(steps: Steps, results: Mapping[str, Sequence[Result]]) -> str:
    """Returns the table of all stages.

    Args:
        steps: configuration of each stage by name.
        results: any number of results of each stage; several are shown as mean, standard deviation and number.
    """
    rows = []
    for name, step in steps.items():
        given = results.get(name, ())
        rows.append(
            [
                name,
                step.model.describe(),
                _labels_used(step, given),
                _each(given, "num_weights", lambda value: f"{value / 1e6:.2f} M"),
                _each(given, "global_step", str),
                *score_cells(given, "eval"),
            ]
        )
    header = ["step", "network", "labels used", "weights", "steps", *SCORE_HEADINGS]
    note = (
        "Accuracy on held-out images, over all of them and as the mean of the classes; how far confidence and "
        "accuracy are apart. After pretraining, if given, that of the linear probe."
    )
    notes = [note, *filter(None, (_unreadable(name, results.get(name, ())) for name in steps))]
    return html.table(header, rows, "results") + html.text(" ".join(notes), "soft")


def _unreadable(name: str, results: Sequence[Result]) -> str:
    """Returns a sentence with the number of unreadable images that each stage skipped; "" if none did."""
    places = {"in training": "train/num_bad_images", "in evaluation": "eval/num_bad_images"}
    counts = {where: sum(one.get(key, 0) for one in results) for where, key in places.items()}
    told = [f"{count} {where}" for where, count in counts.items() if count]
    return f"Unreadable images that {name} met: {' and '.join(told)}." if told else ""


def curves(name: str, step: ExperimentConfig, events: Events) -> str:
    """Returns the loss and accuracy of one stage over its training."""
    loss = chance_loss(step)
    # ln(2B-1), or ln(2B-2) for the decoupled loss; and a memory that is full.
    chance = None if loss is None else (f"chance, 2 ln({math.exp(loss / 2):.0f}) = {loss:.2f}", loss)
    drawn = {
        "loss": plots.plot_losses(events.scalars, chance),
        "accuracy": plots.plot_accuracies(events.scalars),
    }
    shown = [html.picture(png, f"{what} of {name} over the steps") for what, png in drawn.items() if png]
    missing = html.text(f"There are no curves in the event files of {step.model_dir}.")
    return html.subheading(name) + (html.grid(shown) if shown else missing)


def views(events: Events) -> str:
    """Returns the picture of the first training images."""
    if events.views is None:
        return html.text("There is no picture of the views in the event files.")
    kind = "pixels" if events.views_width < _SMALL_PICTURE else "plain"
    about = "Training images as the network sees them: each column is an image, each row a random view of it."
    return html.text(about) + html.picture(events.views, "random views of training images", kind)


def embedding(name: str, step: ExperimentConfig) -> str:
    """Returns a map of the evaluation images by the representation of a stage's network.

    Raises:
        UserError: if the data or the network cannot be loaded.
    """
    source = load_eval_source(step.data)
    if source is None:
        return html.text(f"{step.data.dataset} has no validation or test split to show.")
    source = sample_source(source, _MAX_IMAGES)
    network = load_network(str(step.model_dir), "model_dir")
    plan = BatchPlan(global_batch_size=step.evaluation.eval_batch_size)
    batches = eval_dataset(source, EvalView(image_size=network.config.image_size), plan=plan)
    features, labels = extract_features(network, batches)
    reason = plots.why_not_projected(features)
    if reason is not None:
        return html.text(f"There is no map of {source.name}: {reason}.")
    class_names = (source.class_names or ()) if (labels >= 0).any() else ()
    png = plots.plot_points(plots.project(features), labels, len(class_names))
    about = (
        f"{counted(len(features), 'image')} of {source.name}, placed by their representation (final_avg_pool) in the "
        f"network of {name}: PCA, then t-SNE. Neighbours are similar; long distances mean little."
    )
    return html.text(about) + html.picture(png, "map of the images", "square") + _legend(class_names)


def usage(steps: Steps, served: str) -> str:
    """Returns the code that loads the export of the stage `served`, and the paths of the others."""
    exports = {name: path for name, step in steps.items() if (path := _export_path(step)) is not None}
    if served not in exports:
        return html.text(f"There is no export of {served} in {steps[served].model_dir}.")
    size = steps[served].model.image_size
    lines = [
        "import tensorflow as tf\n",
        f"module = tf.saved_model.load({json.dumps(exports.pop(served), ensure_ascii=False)})",
        f"outputs = module(images, training=False)  # float32 [B, {size}, {size}, 3] in [0, 1]",
        'features = outputs["final_avg_pool"]',
    ]
    lines += [] if served == "pretrain" else ['logits = outputs["logits_sup"]']
    others = html.table(["step", "its export"], list(exports.items()), "settings") if exports else ""
    return html.code("\n".join(lines)) + others


def settings(steps: Steps) -> str:
    """Returns all flags: those that differ between the stages side by side, then the others."""
    by_step = [step.to_dict() for step in steps.values()]
    rows = [[f"--{flag}", *(_value(one[flag]) for one in by_step)] for flag in by_step[0]]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    common = [row[:2] for row in rows if len(set(row[1:])) == 1]
    tables = html.table(["flag", *steps], differing, "settings") if differing else ""
    tables += html.table(["flag", "in all steps" if differing else "value"], common, "settings")
    return html.details("All flags of this run", tables)


def _labels_used(step: ExperimentConfig, results: Sequence[Result], noun: str = "") -> str:
    """Returns the number of labels that a stage learns from, followed by `noun` if it is given."""
    mode, counts = step.train.train_mode, {one.get("train/num_labels", 0) for one in results}
    number = max(counts, default=0)
    everything = f"all {number}" if number and len(counts) == 1 else "all"
    if mode == "pretrain" and step.train.lineareval_while_pretraining and not step.data.few_labels:
        return f"none; its probe {everything}"
    if mode == "pretrain" or (mode == "distill" and step.distill.distill_alpha == 1):
        return "none"
    if per_class := step.data.labels_per_class:
        return f"{counted(per_class, noun) if noun else per_class} per class"
    if step.data.label_fraction < 1:
        everything = f"{100 * step.data.label_fraction:g}% of all"
    return f"{everything} {noun}s" if noun else everything


def _each(results: Sequence[Result], key: str, form: Callable[[Any], str]) -> str:
    return ", ".join(dict.fromkeys(form(one[key]) for one in results if key in one)) or DASH


def _legend(class_names: Sequence[str]) -> str:
    if not class_names:
        return html.text("Without colours, as the images have no labels.", "soft")
    if len(class_names) > plots.MAX_NAMED_CLASSES:
        return html.text(f"The colour is that of the class, one of {len(class_names)}.", "soft")
    return html.legend(plots.class_looks(class_names))


def _export_path(step: ExperimentConfig) -> str | None:
    """Returns the directory of the newest export."""
    directory = os.path.join(str(step.model_dir), "saved_model")
    names = tf.io.gfile.listdir(directory) if tf.io.gfile.isdir(directory) else []
    numbers = [int(name.rstrip("/")) for name in names if name.rstrip("/").isdecimal()]
    if not numbers:
        return None
    path = os.path.join(directory, str(max(numbers)))
    return path if "://" in path else os.path.abspath(path)


def _value(setting: Any) -> str:
    return DASH if setting is None else str(setting)
