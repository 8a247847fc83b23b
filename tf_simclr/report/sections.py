"""Sections of a report, as HTML. A sentence replaces missing content."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tf_simclr.augment import EvalView
from tf_simclr.config import ExperimentConfig
from tf_simclr.data import BatchPlan, eval_dataset, load_eval_source
from tf_simclr.evaluation.features import extract_features, sample_source
from tf_simclr.files import counted, list_names
from tf_simclr.rendering import html, plots
from tf_simclr.rendering.scores import DASH, SCORE_HEADINGS, score_cells
from tf_simclr.report.events import Events
from tf_simclr.runs.networks import load_network
from tf_simclr.training.loop_plan import chance_loss

Stages = Mapping[str, ExperimentConfig]
Result = Mapping[str, Any]

_MAX_IMAGES = 1000
_SMALL_PICTURE = 700


def describe_run(stages: Stages, results: Mapping[str, Result]) -> str:
    """Returns a sentence that describes the stages; see `results_table`."""
    about = {
        "pretrain": "contrastive pretraining on images without labels",
        "finetune": "finetuning on {}",
        "distill": "distillation from a teacher",
        "supervised": "a supervised baseline on {}, from scratch",
    }
    *most, last = (
        about[name].format(_labels_used(stage, results.get(name, {}), noun="label")) for name, stage in stages.items()
    )
    sentence = f"{', '.join(most)}, and {last}" if most else last
    return f"{sentence[0].upper()}{sentence[1:]}."


def results_table(stages: Stages, results: Mapping[str, Result]) -> str:
    """Returns the table of all stages from the configuration and the result, if any, of each by name."""
    rows = []
    for name, stage in stages.items():
        given = results.get(name, {})
        weights = f"{given['num_weights'] / 1e6:.2f} M" if "num_weights" in given else DASH
        steps = str(given.get("global_step", DASH))
        network = [stage.model.describe(), _labels_used(stage, given), weights, steps]
        rows.append([name, *network, *score_cells(given, "eval")])
    header = ["stage", "network", "labels used", "weights", "steps", *SCORE_HEADINGS]
    note = (
        "Accuracy on held-out images, over all of them and as the mean of the classes; how far confidence and "
        "accuracy are apart. After pretraining, these are the scores of the linear probe, if there is one."
    )
    notes = [note, *filter(None, (_unreadable(name, results.get(name, {})) for name in stages))]
    return html.table(header, rows, "results") + html.text(" ".join(notes), "soft")


def _unreadable(name: str, result: Result) -> str:
    """Returns a sentence with the number of unreadable images that a stage skipped; "" if there were none."""
    places = {"in training": "train/num_bad_images", "in evaluation": "eval/num_bad_images"}
    told = [f"{result[key]} {where}" for where, key in places.items() if result.get(key)]
    return f"Unreadable images that {name} met: {' and '.join(told)}." if told else ""


def curves(name: str, stage: ExperimentConfig, events: Events) -> str:
    """Returns the loss and accuracy of one stage over its training."""
    loss = chance_loss(stage)
    # ln(2B-1), or ln(2B-2) for the decoupled loss; and a memory that is full.
    chance = None if loss is None else (f"chance, 2 ln({math.exp(loss / 2):.0f}) = {loss:.2f}", loss)
    levels = {"loss": chance, "accuracy": None}
    drawn = {what: plots.plot_curves(what, events.scalars, level) for what, level in levels.items()}
    shown = [html.picture(png, f"{what} of {name} over the steps") for what, png in drawn.items() if png]
    missing = html.text(f"There are no curves in the event files of {stage.model_dir}.")
    return html.subheading(name) + (html.grid(shown) if shown else missing)


def views(events: Events) -> str:
    """Returns the picture of the first training images."""
    if events.views is None:
        return html.text("There is no picture of the views in the event files.")
    kind = "pixels" if events.views_width < _SMALL_PICTURE else "plain"
    about = "Training images as the network sees them: each column is an image, each row a random view of it."
    return html.text(about) + html.picture(events.views, "random views of training images", kind)


def embedding(name: str, stage: ExperimentConfig) -> str:
    """Returns a map of the evaluation images by the representation of a stage's network.

    Raises:
        UserError: if the data or the network cannot be loaded.
    """
    source = load_eval_source(stage.data)
    if source is None:
        return html.text(f"{stage.data.dataset} has no validation or test split to show.")
    source = sample_source(source, _MAX_IMAGES)
    network = load_network(str(stage.model_dir), "model_dir")
    plan = BatchPlan(global_batch_size=stage.evaluation.eval_batch_size)
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


def usage(stages: Stages, served: str) -> str:
    """Returns the code that loads the export of the stage `served`, and the paths of the others."""
    exports = {name: path for name, stage in stages.items() if (path := _export_path(stage)) is not None}
    if served not in exports:
        return html.text(f"There is no export of {served} in {stages[served].model_dir}.")
    size = stages[served].model.image_size
    lines = [
        "import tensorflow as tf\n",
        f"module = tf.saved_model.load({json.dumps(exports.pop(served), ensure_ascii=False)})",
        f"outputs = module(images, training=False)  # float32 [B, {size}, {size}, 3] in [0, 1]",
        'features = outputs["final_avg_pool"]',
    ]
    lines += [] if served == "pretrain" else ['logits = outputs["logits_sup"]']
    others = html.table(["stage", "its export"], list(exports.items()), "settings") if exports else ""
    return html.code("\n".join(lines)) + others


def settings(stages: Stages) -> str:
    """Returns all flags: those that differ between the stages side by side, then the others."""
    by_stage = [stage.to_dict() for stage in stages.values()]
    values = ([DASH if one[flag] is None else str(one[flag]) for one in by_stage] for flag in by_stage[0])
    rows = [[f"--{flag}", *of_stages] for flag, of_stages in zip(by_stage[0], values, strict=True)]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    common = [row[:2] for row in rows if len(set(row[1:])) == 1]
    tables = html.table(["flag", *stages], differing, "settings") if differing else ""
    tables += html.table(["flag", "in all stages" if differing else "value"], common, "settings")
    return html.details("All flags of this run", tables)


def _labels_used(stage: ExperimentConfig, result: Result, noun: str = "") -> str:
    """Returns the number of labels that a stage learns from, followed by `noun` if it is given."""
    mode, number = stage.train.train_mode, result.get("train/num_labels")
    everything = f"all {number}" if number else "all"
    if mode == "pretrain" and stage.train.lineareval_while_pretraining and not stage.data.few_labels:
        return f"none; its probe {everything}"
    if mode == "pretrain" or (mode == "distill" and stage.distill.distill_alpha == 1):
        return "none"
    if per_class := stage.data.labels_per_class:
        return f"{counted(per_class, noun) if noun else per_class} per class"
    if stage.data.label_fraction < 1:
        everything = f"{100 * stage.data.label_fraction:g}% of all"
    return f"{everything} {noun}s" if noun else everything


def _legend(class_names: Sequence[str]) -> str:
    if not class_names:
        return html.text("Without colours, because the images have no labels.", "soft")
    if len(class_names) > plots.MAX_NAMED_CLASSES:
        return html.text(f"The colour shows the class, one of {len(class_names)}.", "soft")
    return html.legend(plots.class_looks(class_names))


def _export_path(stage: ExperimentConfig) -> str | None:
    """Returns the directory of the newest export."""
    directory = os.path.join(str(stage.model_dir), "saved_model")
    numbers = [int(name) for name in list_names(directory) if name.isdecimal()]
    if not numbers:
        return None
    path = os.path.join(directory, str(max(numbers)))
    return path if "://" in path else os.path.abspath(path)
