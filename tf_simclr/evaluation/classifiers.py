"""Classifiers on features that stay as they are: logistic regression, and nearest neighbours."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from scipy import special

from tf_simclr.schedules import WarmupCosine, scale_learning_rate

L2_PENALTIES = np.logspace(-6, 5, 45)
_MAX_ITERATIONS = 1000
# Multiplications in one product; with fewer, several threads wait for each other more than they work.
_WORTH_THREADS = 10**8
_SGD_EPOCHS = 90
_SGD_BATCH_SIZE = 4096
_SGD_LEARNING_RATE = 0.1
_SGD_WEIGHT_DECAY = 1e-6
# The logarithm of what is no probability at all.
_LOG_ZERO = float(np.log(np.finfo(np.float64).tiny))


Accuracy = Callable[[np.ndarray, np.ndarray], float]


class Examples(NamedTuple):
    """Features and their classes.

    Attributes:
        features: `[N, D]`.
        labels: integers `[N]`, 0 or more.
    """

    features: np.ndarray
    labels: np.ndarray


class LogisticRegressionFit(NamedTuple):
    """What logistic regression gives.

    Attributes:
        model: of scikit-learn, fitted.
        l2_penalty: that was chosen.
        validation_accuracy: with it, before the validation examples were learnt from too.
        converged: whether the last fit came to its end.
    """

    model: Any
    l2_penalty: float
    validation_accuracy: float
    converged: bool

    def logits(self, features: np.ndarray, num_classes: int) -> np.ndarray:
        """Returns float64 `[N, num_classes]`, very small for classes that no example was of."""
        return _logits(self.model, features, num_classes)


def _top_1(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(predictions == labels))


def fit_lbfgs(examples: Examples, num_fit: int, *, accuracy: Accuracy = _top_1) -> LogisticRegressionFit:
    """Fits a multinomial logistic regression by L-BFGS: SimCLR (arXiv 2002.05709), appendix B.8.

    It minimises the sum of the cross entropies and l2 / 2 * |W|^2, where the biases are free; l2 is the one
    of 45 values, evenly spread in the logarithm from 1e-6 to 1e5, that is best on the validation examples,
    by `accuracy` and then by cross entropy. The fits go from the largest value to the smallest, each from
    where the last one ended. With the chosen one the regression is fitted anew to all examples. Features
    are taken as they are, as there: a standard deviation of 1 for each of them would let those that are
    hardly ever above zero count as much as the others.

    Args:
        examples: the ones to fit to, and behind them those for validation.
        num_fit: number of the first ones; they are of at least two classes.
        accuracy: takes predictions `[N]` and labels `[N]`.
    """
    features = np.asarray(examples.features, np.float64)
    fitted = Examples(features[:num_fit], examples.labels[:num_fit])
    validation = Examples(features[num_fit:], examples.labels[num_fit:])
    num_classes = int(examples.labels.max()) + 1
    model, path = _logistic_regression(warm_start=True), []
    for l2 in L2_PENALTIES[::-1]:
        _fit(model.set_params(C=1 / l2), fitted)
        logits = _logits(model, validation.features, num_classes)
        reached = accuracy(logits.argmax(axis=1), validation.labels)
        path.append((reached, _likelihood(logits, validation.labels), float(l2)))
    validation_accuracy, _, l2 = max(path)
    model = _logistic_regression(C=1 / l2)
    converged = _fit(model, Examples(features, examples.labels))
    return LogisticRegressionFit(model, l2, validation_accuracy, converged)


def _logistic_regression(**settings: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=_MAX_ITERATIONS, **settings)


def _fit(model: Any, examples: Examples) -> bool:
    """Fits `model`; returns whether it came to its end."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    work = examples.features.size * len(np.unique(examples.labels))
    threads = 1 if work < _WORTH_THREADS else None
    with warnings.catch_warnings(record=True) as caught, threadpool_limits(threads):
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(*examples)
    return not caught


def _logits(model: Any, features: np.ndarray, num_classes: int) -> np.ndarray:
    scores = model.decision_function(np.asarray(features, np.float64))
    if scores.ndim == 1:  # Of two classes scikit-learn gives the logarithm of the odds.
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    return _of_all_classes(special.log_softmax(scores, axis=1), model.classes_, num_classes)


def _likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.take_along_axis(logits, labels[:, np.newaxis], axis=1)))


class LabelledSets(NamedTuple):
    """Features and the classes of each example, of which there may be several.

    Attributes:
        features: `[N, D]`.
        is_positive: bool `[N, K]`, which classes an example is of.
        is_known: bool `[N, K]`, false where that is not known: such an example is left out for that class.
    """

    features: np.ndarray
    is_positive: np.ndarray
    is_known: np.ndarray


class OneVsRestFit(NamedTuple):
    """What a logistic regression for each class gives.

    Attributes:
        models: of scikit-learn, fitted; one for each class.
        l2_penalty: that was chosen, the same for all classes.
        validation_score: with it, before the validation examples were learnt from too.
        converged: whether all last fits came to their ends.
    """

    models: list[Any]
    l2_penalty: float
    validation_score: float
    converged: bool

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Returns the logarithms of the odds of each class, float64 `[N, K]`."""
        features = np.asarray(features, np.float64)
        return np.stack([model.decision_function(features) for model in self.models], axis=1)


def fit_one_vs_rest(
    examples: LabelledSets, num_fit: int, score: Callable[[np.ndarray, LabelledSets], float]
) -> OneVsRestFit:
    """Fits a logistic regression for each class by L-BFGS, with one L2 penalty for all of them.

    As `fit_lbfgs`, of each class against the rest; of penalties that are equally good the larger is taken.

    Args:
        examples: the ones to fit to, and behind them those for validation.
        num_fit: number of the first ones; there are some with and some without each class among them.
        score: takes the logits `[N, K]` of examples, and these; more is better.
    """
    features = np.asarray(examples.features, np.float64)
    everything = examples._replace(features=features)
    fitted = LabelledSets(*(part[:num_fit] for part in everything))
    validation = LabelledSets(*(part[num_fit:] for part in everything))
    num_classes = examples.is_positive.shape[1]
    logits = np.zeros([len(L2_PENALTIES), *validation.is_positive.shape])
    for number in range(num_classes):
        model, known = _logistic_regression(warm_start=True), _of_class(fitted, number)
        for place, l2 in enumerate(L2_PENALTIES[::-1]):
            _fit(model.set_params(C=1 / l2), known)
            logits[place, :, number] = model.decision_function(validation.features)
    scores = [score(of_penalty, validation) for of_penalty in logits]
    best = int(np.argmax(scores))  # The first of equal ones.
    l2 = float(L2_PENALTIES[::-1][best])
    models = [_logistic_regression(C=1 / l2) for _ in range(num_classes)]
    converged = [_fit(model, _of_class(everything, number)) for number, model in enumerate(models)]
    return OneVsRestFit(models, l2, scores[best], all(converged))


def _of_class(examples: LabelledSets, number: int) -> Examples:
    known = examples.is_known[:, number]
    return Examples(examples.features[known], examples.is_positive[known, number])


def fit_sgd(examples: Examples, num_classes: int, *, seed: int = 0) -> tf.keras.Model:
    """Fits a linear classifier as SimCLR (arXiv 2002.05709), section 3 and appendix B.6, does.

    Nesterov momentum of 0.9, 90 epochs of batches of 4096 or, where there are fewer examples, of all; the
    learning rate is 0.1 * batch / 256 without warm-up, falling as a cosine; weight decay 1e-6. There each
    epoch shows new crops and flips of the images; here each shows the same features.

    Args:
        examples: to learn from.
        num_classes: outputs of the classifier.
        seed: of their order.

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
    examples: Examples, features: np.ndarray, num_classes: int, *, num_neighbors: int, temperature: float
) -> np.ndarray:
    """Returns what the nearest examples vote for, by cosine similarity.

    Weighted k-NN of Wu et al. 2018 (arXiv 1805.01978), section 3.4: each of the k nearest examples has
    exp(similarity / temperature) votes for its own class; a share of the votes is a probability. On vectors
    of length 1 the order of the similarities is that of the Euclidean distances, which scikit-learn works
    off in parts that fit in memory.

    Args:
        examples: that vote.
        features: `[N, D]`, of what is to be classified.
        num_classes: columns of the result.
        num_neighbors: k, at most the number of examples.
        temperature: above 0.

    Returns:
        Float64 `[N, num_classes]`, whose softmax is the shares.
    """
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import normalize

    def votes(distances: np.ndarray) -> np.ndarray:
        similarity = 1 - distances**2 / 2
        # Of the shares a factor makes no difference: this one keeps the exponentials finite.
        return np.exp((similarity - similarity.max(axis=1, keepdims=True)) / temperature)

    model = KNeighborsClassifier(num_neighbors, weights=votes, algorithm="brute")
    model.fit(normalize(examples.features), examples.labels)
    shares = model.predict_proba(normalize(features))
    logits = np.log(np.maximum(shares, np.finfo(np.float64).tiny))
    return _of_all_classes(logits, model.classes_, num_classes)


def _of_all_classes(logits: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns logits `[N, num_classes]` from those of some classes; the others come last."""
    everything = np.full([len(logits), num_classes], logits.min(initial=0.0) + _LOG_ZERO)
    everything[:, classes] = logits
    return everything


def split_off_validation(labels: np.ndarray, *, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divides examples in two, a share of each class for validation.

    At least one example of each class is kept, and at least one goes to validation, except of classes that
    have a single one.

    Args:
        labels: integers `[N]`, 0 or more.
        share: of each class for validation, above 0 and below 1.
        seed: of the choice.

    Returns:
        Sorted numbers of the kept examples, and of those for validation; both int64.
    """
    is_validation = np.zeros(len(labels), bool)
    for number in np.unique(labels):
        members = np.random.default_rng([seed, number]).permutation(np.flatnonzero(labels == number))
        is_validation[members[: min(max(round(share * len(members)), 1), len(members) - 1)]] = True
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
