"""LAMB against its paper."""

import sys
import warnings

import numpy as np
import pytest
import tensorflow as tf

from tests.test_optimizers import (
    NUM_STEPS,
    assert_all_close,
    gradient_values,
    initial_values,
    make_schedule,
    make_variables,
    needs_addons,
    norm,
    train,
)
from tf_simclr import optimizers
from tf_simclr.config import UserError

pytestmark = pytest.mark.stack


def lamb_oracle(w, g, m, v, step, *, learning_rate, weight_decay, excluded):
    """LAMB (arXiv 1904.00962), algorithm 2; step counts from 1."""
    beta_1, beta_2, epsilon = float(np.float32(0.9)), float(np.float32(0.999)), 1e-6
    weight_decay = float(np.float32(weight_decay))  # Keras keeps such numbers in float32
    m = beta_1 * m + (1 - beta_1) * g
    v = beta_2 * v + (1 - beta_2) * g**2
    update = (m / (1 - beta_1**step)) / (np.sqrt(v / (1 - beta_2**step)) + epsilon)
    if excluded:
        return w - learning_rate * update, m, v
    update = update + weight_decay * w
    ratio = norm(w) / norm(update) if norm(w) > 0 and norm(update) > 0 else 1.0
    return w - learning_rate * ratio * update, m, v


@needs_addons
def test_lamb_equals_its_paper_over_several_steps():
    values = initial_values()
    moments = [(np.zeros_like(value), np.zeros_like(value)) for value in values]
    for step in range(NUM_STEPS):
        for i, gradient in enumerate(gradient_values(step)):
            values[i], *moments[i] = lamb_oracle(
                values[i],
                gradient,
                *moments[i],
                step + 1,
                learning_rate=float(make_schedule()(step)),
                weight_decay=0.01,
                excluded=i == 1,
            )
    # tensorflow-addons rounds the two betas to float32, and 1 - beta with them.
    assert_all_close(train("lamb"), values, rtol=1e-9)


@needs_addons
def test_lamb_excludes_exact_names_only():
    variables = make_variables()
    optimizer = optimizers.make_optimizer(
        "lamb", learning_rate=0.1, momentum=0.9, weight_decay=0.1, excluded=variables[:1]
    )
    decayed = [optimizer._do_use_weight_decay(variable) for variable in variables]
    assert decayed == [False, True, True, True]  # neither head/dense/kernel nor dense/kernel_2
    assert [optimizer._do_layer_adaptation(variable) for variable in variables] == decayed


@needs_addons
@pytest.mark.parametrize("num_excluded", [0, 1, 2])
def test_lamb_refuses_one_name_for_excluded_and_other_variables(num_excluded):
    twins = [tf.Variable([1.0], name="same") for _ in range(2)]
    optimizer = optimizers.make_optimizer(
        "lamb", learning_rate=0.1, momentum=0.9, weight_decay=0.1, excluded=twins[:num_excluded]
    )
    if num_excluded != 1:
        optimizers.build_optimizer(optimizer, twins)
        return
    with pytest.raises(ValueError, match="received 2 variables named same:0"):
        optimizers.build_optimizer(optimizer, twins)


@needs_addons
def test_lamb_silences_the_notice_of_its_import_and_nothing_else(monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow_addons", raising=False)
    filters = list(warnings.filters)
    optimizers.make_optimizer("lamb", learning_rate=0.1, momentum=0.9, weight_decay=0.0, excluded=[])
    assert warnings.filters == filters


def test_lamb_says_in_one_line_what_is_missing(monkeypatch):
    arguments = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0, "excluded": []}
    monkeypatch.setitem(sys.modules, "tensorflow_addons", None)
    monkeypatch.setitem(sys.modules, "tensorflow_addons.optimizers", None)
    for version in ((3, 11), (3, 12), (3, 13)):
        monkeypatch.setattr(sys, "version_info", version)
        with pytest.raises(UserError, match=r"^--optimizer=lamb: needs tensorflow-addons, which .*") as error:
            optimizers.make_optimizer("lamb", **arguments)
        assert "--optimizer=lars." in str(error.value)
        assert "\n" not in str(error.value)
