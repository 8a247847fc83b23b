"""Sources of examples, and the batches made from them.

A `Source` holds the examples of one split; `load_source` makes it from a `DataConfig`.
`train_dataset` and `eval_dataset` turn a source and a view into batches. `step_views` returns the first operation of
a training step on a batch.
"""

from tf_simclr.data.batch_plan import BatchPlan
from tf_simclr.data.classes import class_list, class_numbers, match_classes
from tf_simclr.data.mixed_source import MixedSource
from tf_simclr.data.pipeline import eval_dataset, mix_labelled, train_dataset
from tf_simclr.data.random_access import ArraySource
from tf_simclr.data.service import DataService, check_service
from tf_simclr.data.source import Source, check_bad_images, format_hint
from tf_simclr.data.sources import available_splits, load_eval_source, load_source, load_training_source
from tf_simclr.data.splits import find_split, splits_left
from tf_simclr.data.subsets import choose_labelled, few_labels
from tf_simclr.data.summary import data_lines, describe_source, ignored_lines
from tf_simclr.data.tfds_source import load_with_label_sets
from tf_simclr.data.view_placement import step_views

__all__ = [
    "ArraySource",
    "BatchPlan",
    "DataService",
    "MixedSource",
    "Source",
    "available_splits",
    "check_bad_images",
    "check_service",
    "choose_labelled",
    "class_list",
    "class_numbers",
    "data_lines",
    "describe_source",
    "eval_dataset",
    "few_labels",
    "find_split",
    "format_hint",
    "ignored_lines",
    "load_eval_source",
    "load_source",
    "load_training_source",
    "load_with_label_sets",
    "match_classes",
    "mix_labelled",
    "splits_left",
    "step_views",
    "train_dataset",
]
