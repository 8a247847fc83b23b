"""Classifiers of frozen features and of pixels, for a curve of accuracy against the number of labels."""

import functools
import itertools
import logging
import os
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tf_simclr.config import LabelEfficiencyConfig
from tf_simclr.data import Source, choose_labelled, load_source
from tf_simclr.evaluation.features import Features, Network, compute_features, load_inference_network
from tf_simclr.evaluation.probe_inputs import check_features_fit
from tf_simclr.metrics.scores import mean_per_class_accuracy
from tf_simclr.suites.results import SuiteResults

_LOG = logging.getLogger("tf_simclr")
_FILE_NAME = "result_frozen.json"
_NUM_NEIGHBORS = 7
_MAX_ITERATIONS = 5000
_Array = npt.NDArray[Any]


def measure_frozen_methods(
    config: LabelEfficiencyConfig, eval_source: Source, *, writes: bool
) -> dict[str, dict[str, Any]]:
    """Evaluates the methods of a curve that train no network; see `predict`.

    `result_frozen.json` keeps the results. A later start computes only what is missing, or was computed from other
    images or weights.

    Args:
        config: of the curve.
        eval_source: images to evaluate on; as many of them are used as the runs use.
        writes: True in the process that writes the results.

    Returns:
        `eval/label_top_1_accuracy`, `eval/mean_per_class_accuracy` and `eval/num_examples` of each method, number of
        labels and draw, by the names that runs would have.

    Raises:
        UserError: the images or a network cannot be read, or the file cannot be written.
    """
    stage = config.method.finetune
    train, batch_size = load_source(stage.data, stage.data.labelled_split), stage.evaluation.eval_batch_size
    num_images = min(stage.evaluation.eval_steps * batch_size or eval_source.num_examples, eval_source.num_examples)
    sources = {"train": train, "test": eval_source.part(0, num_images)}
    labels, num_classes = train.read_labels(), int(train.num_classes or 0)
    stored = SuiteResults(os.path.join(config.model_dir, _FILE_NAME), "model_dir", overwrite=True)

    @functools.lru_cache(maxsize=1)
    def network_of(checkpoint: str | None) -> Network:
        return load_inference_network(checkpoint) if checkpoint else _pixels(stage.model.image_size)

    @functools.lru_cache(maxsize=1)
    def features_of(checkpoint: str | None) -> tuple[Features, Features]:
        network, endpoint = network_of(checkpoint), "default" if checkpoint else "pixels"
        total = sum(source.num_examples for source in sources.values())
        check_features_fit(stage.data, total, network.shapes[endpoint][0])
        of_train, of_test = (
            compute_features(network, endpoint, source, data=stage.data, batch_size=batch_size)
            for source in sources.values()
        )
        return of_train, of_test

    # All draws of one network come before those of the next.
    draws = sorted(range(config.num_seeds), key=lambda draw: draw % config.num_pretrained)
    results = {}
    for method, draw, count in itertools.product(config.frozen_methods, draws, config.labels):
        name, own = config.run_name(method, count, draw), config.settings_of(method, count, draw)
        start = own.train.checkpoint if method == "linear_eval" else None
        network, seed = network_of(start), own.data.label_seed
        settings = {"weights": network.fingerprint, "image_size": network.image_size, "label_seed": seed}
        settings |= {f"{split}_images": source.fingerprint() for split, source in sources.items()}
        found = stored.find(name, settings)
        if found is None:
            chosen = choose_labelled(labels, num_classes, per_class=count, seed=seed)
            found = _evaluate(method, *features_of(start), chosen)
            _LOG.info("%s: top-1 %.2f%%", name, 100 * found["label_top_1_accuracy"])
            if writes:
                stored.add(name, found, settings)
        results[name] = {f"eval/{score}": value for score, value in found.items()}
    return results


def _pixels(size: int) -> Network:
    """Returns a stand-in for a network, whose features are the pixels."""

    def call(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"pixels": tf.reshape(images, [-1, 3 * size**2])}

    return Network("pixels", call, {"pixels": (3 * size**2,)}, size, "pixels")


def _evaluate(method: str, train: Features, test: Features, chosen: _Array) -> dict[str, Any]:
    labels = np.where(np.isin(train.positions, chosen), train.labels, -1)
    predictions = predict(method, train.features, labels, test.features)
    has_label = test.labels >= 0
    predictions, true = predictions[has_label], test.labels[has_label]
    return {
        "label_top_1_accuracy": float(np.mean(predictions == true)),
        "mean_per_class_accuracy": mean_per_class_accuracy(predictions, true),
        "num_examples": len(true),
    }


def predict(method: str, features: _Array, labels: _Array, test: _Array) -> _Array:
    """Returns the class of each test example by a classifier of scikit-learn, whose settings are not tuned.

    `linear_eval` is logistic regression on features that are standardised by all examples, which needs no labels.
    `raw_pixels` is logistic regression on the features as they are. `label_spreading` spreads the labels over the 7
    nearest neighbours of each example (Zhou et al. 2004); an example that no label reaches gets class 0.

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
        is_used = labels >= 0
        if method == "label_spreading":
            is_used, neighbors = np.ones_like(is_used), min(_NUM_NEIGHBORS, len(features))
            classifier = LabelSpreading(kernel="knn", n_neighbors=neighbors, max_iter=100)
        else:
            classifier = LogisticRegression(max_iter=_MAX_ITERATIONS)
        if method == "linear_eval":
            scaler = StandardScaler().fit(features)
            features, test = scaler.transform(features), scaler.transform(test)
        return np.asarray(classifier.fit(features[is_used], labels[is_used]).predict(test))
