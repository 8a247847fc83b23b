"""Classifiers of frozen features and of pixels, for a curve of accuracy against the number of labels."""

import functools
import itertools
import logging
import os
import warnings
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_simclr.config import ExperimentConfig, LabelEfficiencyConfig
from tf_simclr.data import Source, choose_labelled, load_source
from tf_simclr.evaluation.features import Features, Network, load_inference_network
from tf_simclr.evaluation.probe_inputs import check_features_fit, compute_features
from tf_simclr.metrics.scores import mean_per_class_accuracy
from tf_simclr.suites.results import SuiteResults

_LOG = logging.getLogger("tf_simclr")
_FILE_NAME = "result_frozen.json"
_NUM_NEIGHBORS = 7
_MAX_ITERATIONS = 5000


class _Images(NamedTuple):
    """The images to learn from, all of them, and the images to evaluate on."""

    train: Source
    test: Source


class _Inputs:
    """The features of all images in one network; computed when they are first asked for."""

    def __init__(self, network: Network, endpoint: str, images: _Images, step: ExperimentConfig):
        self.network = network
        self._endpoint, self._images, self._step = endpoint, images, step

    @functools.cached_property
    def features(self) -> tuple[Features, Features]:
        """Features of the images to learn from, and of those to evaluate on."""
        data = self._step.data
        num_images = sum(source.num_examples for source in self._images)
        check_features_fit(data, num_images, self.network.shapes[self._endpoint][0])
        train, test = (
            compute_features(
                self.network,
                self._endpoint,
                source,
                data=data,
                batch_size=self._step.evaluation.eval_batch_size,
            )
            for source in self._images
        )
        return train, test


def measure_frozen_methods(
    config: LabelEfficiencyConfig, eval_source: Source, *, writes: bool
) -> dict[str, dict[str, Any]]:
    """Evaluates the methods of a curve that train no network; see `predict`.

    The results are kept in `result_frozen.json`. A later start computes what is missing, and what was computed from
    other images or weights.

    Args:
        config: of the curve.
        eval_source: the images to evaluate on; of these as many as the runs evaluate.
        writes: whether this process writes the results.

    Returns:
        `eval/label_top_1_accuracy`, `eval/mean_per_class_accuracy` and `eval/num_examples` of each method, number of
        labels and draw, by the names that runs would have.

    Raises:
        UserError: the images or a network cannot be read, or the file cannot be written.
    """
    step = config.method.finetune
    num_images = step.evaluation.eval_steps * step.evaluation.eval_batch_size
    test = eval_source.part(0, num_images) if 0 < num_images < eval_source.num_examples else eval_source
    images = _Images(load_source(step.data, step.data.labelled_split), test)
    labels, num_classes = images.train.read_labels(), int(images.train.num_classes or 0)
    stored = SuiteResults(os.path.join(config.model_dir, _FILE_NAME), "model_dir", overwrite=True)

    @functools.lru_cache(maxsize=1)
    def inputs_of(checkpoint: str | None) -> _Inputs:
        if checkpoint is None:
            return _Inputs(_pixels(step.model.image_size), "pixels", images, step)
        return _Inputs(load_inference_network(checkpoint), "default", images, step)

    # All draws of one network come before those of the next.
    draws = sorted(range(config.num_seeds), key=lambda draw: draw % config.num_pretrained)
    results = {}
    for method, draw, count in itertools.product(config.frozen_methods, draws, config.labels):
        name, own = config.run_name(method, count, draw), config.settings_of(method, count, draw)
        inputs = inputs_of(own.train.checkpoint if method == "linear_eval" else None)
        settings = {
            "weights": inputs.network.fingerprint,
            "image_size": inputs.network.image_size,
            "label_seed": own.data.label_seed,
        } | {f"{split}_images": source.fingerprint() for split, source in images._asdict().items()}
        found = stored.find(name, settings)
        if found is None:
            chosen = choose_labelled(labels, num_classes, per_class=count, seed=own.data.label_seed)
            found = _evaluate(method, *inputs.features, chosen)
            _LOG.info("%s: top-1 %.2f%%", name, 100 * found["label_top_1_accuracy"])
            if writes:
                stored.add(name, found, settings)
        results[name] = {f"eval/{score}": value for score, value in found.items()}
    return results


def _pixels(size: int) -> Network:
    """Returns what stands in for a network where the pixels are the features."""

    def call(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"pixels": tf.reshape(images, [-1, 3 * size**2])}

    return Network("pixels", call, {"pixels": (3 * size**2,)}, size, "pixels")


def _evaluate(method: str, train: Features, test: Features, chosen: np.ndarray) -> dict[str, Any]:
    labels = np.where(np.isin(train.positions, chosen), train.labels, -1)
    predictions = predict(method, train.features, labels, test.features)
    has_label = test.labels >= 0
    predictions, true = predictions[has_label], test.labels[has_label]
    return {
        "label_top_1_accuracy": float(np.mean(predictions == true)),
        "mean_per_class_accuracy": mean_per_class_accuracy(predictions, true),
        "num_examples": len(true),
    }


def predict(method: str, features: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Returns the class of each test example by a classifier of scikit-learn, whose settings are not tuned.

    `linear_eval` is logistic regression on features that are standardised by all examples, which needs no labels;
    `raw_pixels` is logistic regression on the features as they are; `label_spreading` spreads the labels over the 7
    nearest neighbours of each example (Zhou et al. 2004), where an example that no label reaches is of class 0.

    Args:
        method: one of the three.
        features: `[N, D]`.
        labels: integers `[N]`, -1 for an example whose label is not used; of at least two classes.
        test: `[M, D]`.

    Returns:
        Integers `[M]`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from sklearn.semi_supervised import LabelSpreading
    from threadpoolctl import threadpool_limits

    # Several threads beside those of TensorFlow are up to 30 times slower.
    with threadpool_limits(1), np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if method == "label_spreading":
            neighbors = min(_NUM_NEIGHBORS, len(features))
            spreading = LabelSpreading(kernel="knn", n_neighbors=neighbors, max_iter=100)
            return spreading.fit(features, labels).predict(test)
        if method == "linear_eval":
            scaler = StandardScaler().fit(features)
            features, test = scaler.transform(features), scaler.transform(test)
        is_labelled = labels >= 0
        regression = LogisticRegression(max_iter=_MAX_ITERATIONS)
        return regression.fit(features[is_labelled], labels[is_labelled]).predict(test)
