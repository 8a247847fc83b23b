"""Classifiers on frozen features: logistic regression and nearest neighbours."""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from scipy import special

from tf_simclr.schedules import WarmupCosine, scale_learning_rate

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

L2_PENALTIES = np.logspace(-6, 5, 45)
_MAX_ITERATIONS = 1000
# Multiplications in one product; with fewer, several threads wait for each other more than they work.
_WORTH_THREADS = 10**8
_SGD_EPOCHS = 90
_SGD_BATCH_SIZE = 4096
_SGD_LEARNING_RATE = 0.1
_SGD_WEIGHT_DECAY = 1e-6
# Stands for the logarithm of 0.
_LOG_ZERO = float(np.log(np.finfo(np.float64).tiny))


class Examples(NamedTuple):
    """Features and their classes.

    Attributes:
        features: `[N, D]`.
        labels: integers `[N]`, 0 or more.
    """

    features: NDArray[Any]
    labels: NDArray[Any]


class LabelledSets(NamedTuple):
    """Features and the classes of each example, of which there may be several.

    Attributes:
        features: `[N, D]`.
        is_positive: `[N, K]`, the classes of an example.
        is_known: `[N, K]`; if false, the example is left out for that class.
    """

    features: NDArray[Any]
    is_positive: NDArray[np.bool_]
    is_known: NDArray[np.bool_]


class PenalisedFit(NamedTuple):
    """Logistic regressions with the L2 penalty that is best on validation examples, fitted to these too.

    Attributes:
        models: fitted models: one of all classes, or one for each class.
        logits: takes features `[N, D]`, returns float64 `[N, K]`, see the functions that fit.
        l2_penalty: the penalty.
        validation_score: its score before the fit to the validation examples.
        converged: whether the final fits converged.
        num_train: number of the other examples.
        num_validation: number of the validation examples.
    """

    models: "list[LogisticRegression]"
    logits: Callable[[NDArray[Any]], NDArray[np.float64]]
    l2_penalty: float
    validation_score: float
    converged: bool
    num_train: int
    num_validation: int


def top_1_accuracy(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    """Returns the share of the predictions `[N]` that equal the labels `[N]`."""
    return float(np.mean(predictions == labels))


def fit_lbfgs(
    train: Examples,
    validation: Examples,
    num_classes: int,
    *,
    accuracy: Callable[[NDArray[Any], NDArray[Any]], float] = top_1_accuracy,
) -> PenalisedFit:
    """Fits a multinomial logistic regression by L-BFGS: SimCLR (arXiv 2002.05709), appendix B.8.

    It minimises the sum of the cross entropies and l2 / 2 * |W|^2; the biases are free. The penalty l2 is the one of
    45 values, evenly spread in the logarithm from 1e-6 to 1e5, that is best on the validation examples, by `accuracy`
    and then by cross entropy. The fits go from the largest value to the smallest; each starts from the result of the
    last one. The final fit starts anew, on all examples. As in the paper, features are not standardised: features that
    are hardly ever above zero would count as much as the others.

    Args:
        train: the examples to fit to, of at least two classes.
        validation: the examples to choose the penalty by.
        num_classes: K.
        accuracy: takes predictions `[N]` and labels `[N]`.

    Returns:
        The fit. The logits are logarithms of probabilities, very small for classes without examples.
    """
    train, everything, held_out = _joined(train, validation)

    def scores(logits: NDArray[np.float64]) -> tuple[float, float]:
        likelihood = np.mean(np.take_along_axis(logits, validation.labels[:, np.newaxis], axis=1))
        return accuracy(logits.argmax(axis=1), validation.labels), float(likelihood)

    path = _regularisation_path(train, lambda model: _logits(model, num_classes, held_out))
    score, _, l2 = max((*scores(logits), l2) for l2, logits in path)
    model = _logistic_regression(C=1 / l2)
    converged = _fit(model, everything)
    logits = functools.partial(_logits, model, num_classes)
    return PenalisedFit([model], logits, l2, score, converged, len(train.labels), len(validation.labels))


def fit_one_vs_rest(
    train: LabelledSets, validation: LabelledSets, score: Callable[[NDArray[np.float64], LabelledSets], float]
) -> PenalisedFit:
    """Fits a logistic regression for each class against the rest by L-BFGS, with one L2 penalty for all of them.

    It proceeds like `fit_lbfgs`. Of penalties that are equally good, the largest wins.

    Args:
        train: the examples to fit to, some with and some without each class.
        validation: the examples to choose the penalty by.
        score: takes the logits `[N, K]` of examples, and these; more is better.

    Returns:
        The fit. The logits are logarithms of the odds of each class.
    """
    train, everything, held_out = _joined(train, validation)
    classes = range(train.is_positive.shape[1])
    columns = [
        list(_regularisation_path(_of_class(train, number), lambda model: model.decision_function(held_out)))
        for number in classes
    ]
    found = []
    for of_penalty in zip(*columns, strict=True):
        logits = np.stack([column for _, column in of_penalty], axis=1)
        found.append((score(logits, validation), of_penalty[0][0]))
    best, l2 = max(found)
    models = [_logistic_regression(C=1 / l2) for _ in classes]
    converged = [_fit(model, _of_class(everything, number)) for number, model in enumerate(models)]

    def logits_of(features: NDArray[Any]) -> NDArray[np.float64]:
        features = np.asarray(features, np.float64)
        return np.stack([model.decision_function(features) for model in models], axis=1)

    num_train, num_validation = len(train.features), len(validation.features)
    return PenalisedFit(models, logits_of, l2, best, all(converged), num_train, num_validation)


def _joined(train: Any, validation: Any) -> tuple[Any, Any, NDArray[np.float64]]:
    """Returns `train` and all examples with features float64, and the features of `validation`."""
    count = len(train.features)
    features = np.concatenate([train.features, validation.features]).astype(np.float64)
    others = (np.concatenate(parts) for parts in zip(train[1:], validation[1:], strict=True))
    return train._replace(features=features[:count]), type(train)(features, *others), features[count:]


def _of_class(examples: LabelledSets, number: int) -> Examples:
    known = examples.is_known[:, number]
    return Examples(examples.features[known], examples.is_positive[known, number])


def _regularisation_path(
    examples: Examples, logits_of: "Callable[[LogisticRegression], NDArray[np.float64]]"
) -> Iterator[tuple[float, NDArray[np.float64]]]:
    """Yields each penalty, the largest first, and the logits of the validation examples with it."""
    model = _logistic_regression(warm_start=True)
    for l2 in L2_PENALTIES[::-1]:
        _fit(model.set_params(C=1 / l2), examples)
        yield float(l2), logits_of(model)


def _logistic_regression(**settings: Any) -> "LogisticRegression":
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=_MAX_ITERATIONS, **settings)


def _fit(model: "LogisticRegression", examples: Examples) -> bool:
    """Fits `model`; returns whether it converged."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    work = examples.features.size * len(np.unique(examples.labels))
    threads = 1 if work < _WORTH_THREADS else None
    with warnings.catch_warnings(record=True) as caught, threadpool_limits(threads):
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(*examples)
    return not caught


def _logits(model: "LogisticRegression", num_classes: int, features: NDArray[Any]) -> NDArray[np.float64]:
    scores = model.decision_function(np.asarray(features, np.float64))
    if scores.ndim == 1:  # For two classes, scikit-learn gives the logarithm of the odds.
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    return _of_all_classes(special.log_softmax(scores, axis=1), model.classes_, num_classes)


def fit_sgd(examples: Examples, num_classes: int, *, seed: int = 0) -> tf.keras.Model:
    """Fits a linear classifier by SGD: SimCLR (arXiv 2002.05709), section 3 and appendix B.6.

    Nesterov momentum of 0.9; 90 epochs of batches of 4096, or of all examples if there are fewer; learning rate
    0.1 * batch / 256 without warm-up, falling as a cosine; weight decay 1e-6. Unlike the paper, each epoch shows the
    same features: the images are not augmented.

    Args:
        examples: examples to learn from.
        num_classes: number of outputs.
        seed: seed of the order of the examples.

    Returns:
        The classifier, from features `[N, D]` to logits `[N, num_classes]`.
    """
    count = len(examples.labels)
    batch = min(_SGD_BATCH_SIZE, count)
    peak = scale_learning_rate(_SGD_LEARNING_RATE, batch, "linear")
    schedule = WarmupCosine(peak, 0, _SGD_EPOCHS * -(-count // batch))
    penalty = tf.keras.regularizers.L2(_SGD_WEIGHT_DECAY / 2)
    head = tf.keras.layers.Dense(num_classes, kernel_initializer="zeros", kernel_regularizer=penalty)
    classifier = tf.keras.Sequential([head])
    classifier.compile(
        tf.keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, jit_compile=False),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    rng = np.random.default_rng(seed)
    for _ in range(_SGD_EPOCHS):
        order = rng.permutation(count)
        for start in range(0, count, batch):
            rows = order[start : start + batch]
            classifier.train_on_batch(examples.features[rows], examples.labels[rows])
    return classifier


def neighbour_logits(
    examples: Examples, features: NDArray[Any], num_classes: int, *, num_neighbors: int, temperature: float
) -> NDArray[np.float64]:
    """Classifies by a vote of the nearest examples by cosine similarity.

    Weighted k-NN of Wu et al. 2018 (arXiv 1805.01978), section 3.4: each of the k nearest examples has
    exp(similarity / temperature) votes for its own class. On vectors of length 1, similarity and Euclidean distance
    give the same order. scikit-learn computes the distances in parts that fit in memory.

    Args:
        examples: the examples that vote.
        features: `[N, D]`, to be classified.
        num_classes: number of columns of the result.
        num_neighbors: k, at most the number of examples.
        temperature: above 0.

    Returns:
        `[N, num_classes]`; its softmax is each class's share of the votes.
    """
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import normalize

    def votes(distances: NDArray[np.float64]) -> NDArray[np.float64]:
        similarity = 1 - distances**2 / 2
        # The subtraction keeps the exponentials finite. It changes no share.
        weights: NDArray[np.float64] = np.exp((similarity - similarity.max(axis=1, keepdims=True)) / temperature)
        return weights

    model = KNeighborsClassifier(num_neighbors, weights=votes, algorithm="brute")
    model.fit(normalize(examples.features), examples.labels)
    shares = model.predict_proba(normalize(features))
    logits = np.log(np.maximum(shares, np.finfo(np.float64).tiny))
    return _of_all_classes(logits, model.classes_, num_classes)


def _of_all_classes(logits: NDArray[np.float64], classes: NDArray[Any], num_classes: int) -> NDArray[np.float64]:
    """Returns logits `[N, num_classes]` from those of some classes; the others rank last."""
    everything = np.full([len(logits), num_classes], logits.min(initial=0.0) + _LOG_ZERO)
    everything[:, classes] = logits
    return everything


def split_off_validation(
    labels: NDArray[Any], *, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divides examples in two, a share of each class for validation.

    At least one example of each class is kept. At least one goes to validation, if the class has several.

    Args:
        labels: integers `[N]`, 0 or more.
        share: share of each class for validation, above 0 and below 1.
        seed: seed of the choice.

    Returns:
        Sorted numbers of the kept examples, and of the validation examples.
    """
    is_validation = np.zeros(len(labels), bool)
    for number in np.unique(labels):
        members = np.random.default_rng([seed, number]).permutation(np.flatnonzero(labels == number))
        is_validation[members[: min(max(round(share * len(members)), 1), len(members) - 1)]] = True
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
