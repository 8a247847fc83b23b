"""Classifiers on features against scikit-learn itself and plain loops."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.support.runs import eagerly
from tf_simclr.evaluation import classifiers
from tf_simclr.evaluation.classifiers import (
    L2_PENALTIES,
    Examples,
    LabelledSets,
    fit_lbfgs,
    fit_one_vs_rest,
    fit_sgd,
    neighbour_logits,
)

NUM_CLASSES = 4


def clusters(count=120, num_classes=NUM_CLASSES, spread=1.5, seed=0):
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % num_classes).astype(np.int32)
    centres = np.random.default_rng(9).normal(size=(num_classes, 6))
    return Examples((centres[labels] + spread * rng.normal(size=(count, 6))).astype(np.float32), labels)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


# ---- Logistic regression


def parts(examples, count):
    """The first examples, and those for validation."""
    return type(examples)(*(part[:count] for part in examples)), type(examples)(*(part[count:] for part in examples))


def fit_clusters(examples, num_classes=NUM_CLASSES, **options):
    return fit_lbfgs(*parts(examples, 80), num_classes, **options)


def from_scratch(l2, features, labels):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1 / l2, max_iter=5000, tol=1e-9).fit(features.astype(np.float64), labels)


def sklearn_path(examples, penalties):
    """Accuracy, negative cross entropy and penalty of every fit from scratch, on the validation examples."""
    from sklearn.metrics import log_loss

    train, (features, labels) = parts(examples, 80)
    for l2 in penalties:
        model = from_scratch(l2, *train)
        yield model.score(features, labels), -log_loss(labels, model.predict_proba(features)), l2


@pytest.fixture
def few_penalties(monkeypatch):
    monkeypatch.setattr(classifiers, "L2_PENALTIES", np.logspace(-2, 3, 5))
    return classifiers.L2_PENALTIES


def test_penalties_are_those_of_the_paper():
    assert len(L2_PENALTIES) == 45
    assert (L2_PENALTIES.min(), L2_PENALTIES.max()) == pytest.approx((1e-6, 1e5))
    np.testing.assert_allclose(np.diff(np.log10(L2_PENALTIES)), 11 / 44)


@pytest.mark.parametrize("num_classes", [2, NUM_CLASSES])
def test_lbfgs_chooses_and_fits_as_scikit_learn_from_scratch(few_penalties, num_classes):
    examples, test = clusters(num_classes=num_classes), clusters(num_classes=num_classes, seed=1)
    fit = fit_clusters(examples, num_classes)
    accuracy, _, l2 = max(sklearn_path(examples, few_penalties))
    assert (fit.l2_penalty, fit.validation_score) == pytest.approx((l2, accuracy))
    assert (fit.converged, fit.num_train, fit.num_validation) == (True, 80, 40)
    expected = from_scratch(l2, *examples).predict_proba(test.features.astype(np.float64))
    np.testing.assert_allclose(softmax(fit.logits(test.features)), expected, atol=2e-3)


def test_lbfgs_finds_where_the_gradient_of_the_stated_loss_is_zero(few_penalties):
    examples = clusters()
    fit = fit_clusters(examples)
    errors = softmax(fit.logits(examples.features)) - np.eye(NUM_CLASSES)[examples.labels]
    gradient = errors.T @ examples.features + fit.l2_penalty * fit.models[0].coef_
    assert np.abs(gradient).max() < 2e-4 * len(examples.labels)
    assert np.abs(errors.sum(axis=0)).max() < 2e-4 * len(examples.labels)


def test_lbfgs_gives_a_class_without_examples_no_chance(few_penalties):
    examples = clusters()
    labels = np.where(examples.labels == 3, 5, examples.labels)
    logits = fit_clusters(Examples(examples.features, labels), 7).logits(examples.features)
    assert np.isfinite(logits).all()
    assert set(logits.argmax(axis=1)) <= {0, 1, 2, 5}
    assert softmax(logits)[:, [3, 4, 6]].max() < 1e-300


def test_lbfgs_that_is_stopped_says_so(monkeypatch, few_penalties):
    monkeypatch.setattr(classifiers, "_MAX_ITERATIONS", 1)
    assert not fit_clusters(clusters()).converged


def test_lbfgs_takes_the_penalty_that_is_best_by_the_requested_accuracy(few_penalties):
    examples = clusters()
    fit = fit_clusters(examples, accuracy=lambda predictions, labels: -float(np.mean(predictions == labels)))
    path = list(sklearn_path(examples, few_penalties))
    assert fit.validation_score == pytest.approx(-min(accuracy for accuracy, _, _ in path))
    assert fit.validation_score != pytest.approx(-fit_clusters(examples).validation_score)


# ---- One class against the rest


def labelled_sets(count=90, seed=0):
    """Three classes, of which an example has any number; some are not known."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 5)).astype(np.float32)
    noise = rng.normal(size=(count, 3))
    positive = features @ np.random.default_rng(9).normal(size=(5, 3)) + noise > 0
    return LabelledSets(features, positive, rng.uniform(size=(count, 3)) < 0.8)


def mean_accuracy(logits, examples):
    return float(np.mean(((logits > 0) == examples.is_positive)[examples.is_known]))


def test_one_vs_rest_chooses_and_fits_as_scikit_learn_from_scratch(few_penalties):
    examples, test = labelled_sets(), labelled_sets(seed=1)
    train, validation = parts(examples, 60)

    def scratch(l2, examples, to):
        columns = []
        for number in range(3):
            known = examples.is_known[:, number]
            model = from_scratch(l2, examples.features[known], examples.is_positive[known, number])
            columns.append(model.decision_function(to.features.astype(np.float64)))
        return np.stack(columns, axis=1)

    path = [(mean_accuracy(scratch(l2, train, validation), validation), l2) for l2 in few_penalties]
    fit = fit_one_vs_rest(train, validation, mean_accuracy)
    assert (fit.validation_score, fit.l2_penalty) == pytest.approx(max(path))
    assert (fit.converged, fit.num_train, fit.num_validation) == (True, 60, 30)
    np.testing.assert_allclose(fit.logits(test.features), scratch(fit.l2_penalty, examples, test), atol=5e-3)


def test_one_vs_rest_learns_nothing_from_unknown_classes(few_penalties):
    examples = labelled_sets()
    flipped = examples._replace(is_positive=examples.is_positive ^ ~examples.is_known)
    fits = [fit_one_vs_rest(*parts(one, 60), mean_accuracy) for one in (examples, flipped)]
    np.testing.assert_array_equal(*(fit.logits(examples.features) for fit in fits))


# ---- SGD

EPOCHS = 6


@pytest.fixture
def few_epochs(monkeypatch):
    monkeypatch.setattr(classifiers, "_SGD_EPOCHS", EPOCHS)


def sgd_by_hand(examples, num_classes):
    """All examples a batch: some steps of Nesterov momentum, in plain NumPy."""
    features, targets = examples.features.astype(np.float64), np.eye(num_classes)[examples.labels]
    count = len(features)
    variables = [np.zeros([features.shape[1], num_classes]), np.zeros(num_classes)]
    velocities = [0.0, 0.0]
    for step in range(EPOCHS):
        rate = 0.1 * count / 256 * (1 + math.cos(math.pi * step / EPOCHS)) / 2
        errors = (softmax(features @ variables[0] + variables[1]) - targets) / count
        gradients = [features.T @ errors + 1e-6 * variables[0], errors.sum(axis=0)]
        for number, gradient in enumerate(gradients):
            velocities[number] = 0.9 * velocities[number] - rate * gradient
            variables[number] = variables[number] + 0.9 * velocities[number] - rate * gradient
    return variables


def test_sgd_is_the_recurrence_of_the_paper(few_epochs):
    examples = clusters()
    with eagerly():
        classifier = fit_sgd(examples, NUM_CLASSES)
    for ours, expected in zip(classifier.get_weights(), sgd_by_hand(examples, NUM_CLASSES), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_sgd_of_several_batches_is_the_same_for_the_same_seed(few_epochs, monkeypatch):
    monkeypatch.setattr(classifiers, "_SGD_BATCH_SIZE", 32)

    def weights(seed):
        tf.keras.utils.set_random_seed(seed + 5)  # Earlier random numbers make no difference.
        with eagerly():
            return fit_sgd(clusters(), NUM_CLASSES, seed=7).get_weights()

    for first, second in zip(weights(0), weights(1), strict=True):
        np.testing.assert_array_equal(first, second)


# ---- Nearest neighbours


def loop_shares(examples, features, k, temperature, num_classes):
    rows = []
    for query in features.astype(np.float64):
        similarities = [
            float(query @ key / math.sqrt(query @ query) / math.sqrt(key @ key))
            for key in examples.features.astype(np.float64)
        ]
        nearest = sorted(range(len(similarities)), key=lambda number: -similarities[number])[:k]
        votes = [0.0] * num_classes
        for number in nearest:
            votes[examples.labels[number]] += math.exp(similarities[number] / temperature)
        rows.append([vote / sum(votes) for vote in votes])
    return np.array(rows)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (20, 0.1), (20, 0.01), (120, 1.0)])
def test_neighbours_vote_as_in_plain_loops(k, temperature):
    examples, test = clusters(), clusters(40, seed=1)
    logits = neighbour_logits(examples, test.features, NUM_CLASSES + 1, num_neighbors=k, temperature=temperature)
    assert np.isfinite(logits).all()
    expected = loop_shares(examples, test.features, k, temperature, NUM_CLASSES + 1)
    np.testing.assert_allclose(softmax(logits), expected, atol=2e-5)


def test_neighbours_of_nothing_are_finite():
    logits = neighbour_logits(clusters(), np.zeros([1, 6], np.float32), NUM_CLASSES, num_neighbors=5, temperature=0.1)
    assert np.isfinite(logits).all()


# ---- The validation part


@pytest.mark.parametrize("counts", [[10, 10, 10], [2, 1, 30], [1, 0, 2]])
def test_validation_part_has_a_share_of_each_class_that_can_spare_one(counts):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    kept, others = classifiers.split_off_validation(labels, share=0.2, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, others])), np.arange(len(labels)))
    expected = [0 if count < 2 else max(round(0.2 * count), 1) for count in counts]
    np.testing.assert_array_equal(np.bincount(labels[others], minlength=len(counts)), expected)


def test_validation_part_follows_from_the_seed():
    labels = np.arange(60) % 3

    def part(seed):
        return classifiers.split_off_validation(labels, share=0.2, seed=seed)[1].tolist()

    assert part(0) == part(0) != part(1)
