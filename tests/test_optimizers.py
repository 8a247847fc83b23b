"""Optimizers against plain loops, in every way of running them."""

import math
import re
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.support.networks import two_replicas
from tf_simclr import optimizers
from tf_simclr.config import UserError
from tf_simclr.schedules import WarmupCosine

pytestmark = pytest.mark.stack

needs_addons = pytest.mark.skipif(sys.version_info >= (3, 12), reason="tensorflow-addons has no release for it")
NAMES = ["lars", pytest.param("lamb", marks=needs_addons), "momentum", "adam"]
HYPER = {"momentum": 0.9, "weight_decay": 0.01, "trust_coefficient": 0.001}
NUM_STEPS = 4


def norm(x):
    return math.sqrt(math.fsum(float(value) ** 2 for value in np.ravel(x)))


def lars_oracle(w, g, v, *, learning_rate, momentum, weight_decay, trust_coefficient, excluded):
    """One number at a time."""
    new_w, new_v = np.array(w), np.array(v)
    decayed = np.array(g)
    trust = 1.0
    if not excluded:
        for i in np.ndindex(*w.shape):
            decayed[i] = g[i] + weight_decay * w[i]
        if norm(w) > 0 and norm(decayed) > 0:
            trust = trust_coefficient * norm(w) / norm(decayed)
    for i in np.ndindex(*w.shape):
        new_v[i] = momentum * v[i] + learning_rate * trust * decayed[i]
        new_w[i] = w[i] - new_v[i]
    return new_w, new_v


def initial_values(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(3, 4)), rng.normal(size=4), rng.normal(size=(4, 2)), np.zeros((2, 2))]


def gradient_values(step):
    gradients = [0.1 * value for value in initial_values(seed=100 + step)[:3]]
    return [*gradients, np.full((2, 2), 0.5) if step else np.zeros((2, 2))]


def make_variables(dtype="float64"):
    names = ["dense/kernel", "dense/bias", "head/dense/kernel", "dense/kernel_2"]
    return [tf.Variable(v, dtype=dtype, name=n) for v, n in zip(initial_values(), names, strict=True)]


def make_schedule(dtype="float64"):
    return WarmupCosine(1.5, 2, 6, dtype=dtype)


def make(name, variables, learning_rate=None):
    """The second variable, a bias, is excluded."""
    optimizer = optimizers.make_optimizer(
        name,
        learning_rate=make_schedule() if learning_rate is None else learning_rate,
        momentum=0.9,
        weight_decay=0.01,
        excluded=[variables[1]],
    )
    optimizers.build_optimizer(optimizer, variables)
    return optimizer


def train(name, wrap=lambda function: function, num_steps=NUM_STEPS):
    variables = make_variables()
    optimizer = make(name, variables)
    apply = wrap(lambda gradients: optimizers.apply_gradients(optimizer, gradients, variables))
    for step in range(num_steps):
        apply([tf.constant(g) for g in gradient_values(step)])
    return [variable.numpy() for variable in variables]


def assert_all_close(received, expected, **tolerance):
    for x, y in zip(received, expected, strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def lars_steps(values, gradients, *, excluded=False, learning_rate=1.0, **options):
    """The variable and its velocity after each of several steps of the optimizer."""
    variable = tf.Variable(values)
    optimizer = optimizers.LARS(learning_rate, excluded=[variable] if excluded else [], **options)
    optimizers.build_optimizer(optimizer, [variable])
    for gradient in gradients:
        optimizers.apply_gradients(optimizer, [tf.constant(gradient, variable.dtype)], [variable])
        yield variable.numpy(), optimizer._velocities[0].numpy()


@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize("zero", ["", "variable", "gradient", "both"])
def test_lars_equals_loops_where_a_norm_is_zero(excluded, zero):
    w, g, v = initial_values()[0], gradient_values(1)[0], np.zeros_like(initial_values()[0])
    w = np.zeros_like(w) if zero in ("variable", "both") else w
    g = np.zeros_like(g) if zero in ("gradient", "both") else g
    arguments = HYPER | {"learning_rate": 0.75, "excluded": excluded}
    for received in lars_steps(w, [g] * 2, **arguments):
        w, v = lars_oracle(w, g, v, **arguments)
        assert_all_close(received, (w, v), rtol=1e-14, atol=1e-18)


def test_lars_update_keeps_the_learning_rate_where_a_norm_is_zero():
    zero, gradient = tf.zeros([2]), tf.constant([1.0, -2.0])
    arguments = {"learning_rate": 0.5, "weight_decay": 0.0, "trust_coefficient": 0.001}
    np.testing.assert_array_equal(optimizers.lars_update(zero, gradient, **arguments), [0.5, -1.0])
    np.testing.assert_array_equal(optimizers.lars_update(gradient, zero, **arguments), [0.0, 0.0])


def test_lars_three_steps_by_hand():
    # |w| and |g| are whole numbers: (3, 4) has norm 5. No decay, momentum 1/2, learning rate 1.
    gradients = [[6.0, 8.0], [0.0, 0.0], [0.0, 4.25]]
    expected = [
        ([2.7, 3.6], [0.3, 0.4]),  # trust 0.1 * 5 / 10
        ([2.55, 3.4], [0.15, 0.2]),  # momentum alone
        ([2.475, 2.875], [0.075, 0.525]),  # trust 0.1 * 4.25 / 4.25
    ]
    steps = lars_steps(np.array([3.0, 4.0]), gradients, momentum=0.5, trust_coefficient=0.1)
    for received, wanted in zip(steps, expected, strict=True):
        assert_all_close(received, wanted, rtol=1e-14)


def test_lars_equals_loops_over_several_steps():
    values = initial_values()
    velocities = [np.zeros_like(value) for value in values]
    for step in range(NUM_STEPS):
        for i, gradient in enumerate(gradient_values(step)):
            values[i], velocities[i] = lars_oracle(
                values[i],
                gradient,
                velocities[i],
                learning_rate=float(make_schedule()(step)),
                excluded=i == 1,
                **HYPER,
            )
    assert_all_close(train("lars"), values, rtol=1e-13)


def test_lars_with_a_constant_learning_rate_keeps_it_in_float32():
    variables = make_variables()
    optimizer = make("lars", variables, learning_rate=0.1)
    optimizers.apply_gradients(optimizer, [tf.constant(g) for g in gradient_values(1)], variables)
    expected = initial_values()[1] - float(np.float32(0.1)) * gradient_values(1)[1]
    np.testing.assert_allclose(variables[1], expected, rtol=1e-14)


def test_lars_tells_variables_apart_by_object_not_by_name():
    twins = [tf.Variable([1.0, 2.0], name="same") for _ in range(2)]
    optimizer = optimizers.LARS(0.1, excluded=[twins[0]])
    optimizers.build_optimizer(optimizer, twins)
    optimizers.apply_gradients(optimizer, [tf.constant([1.0, 1.0])] * 2, twins)
    np.testing.assert_allclose(twins[0], [0.9, 1.9])
    np.testing.assert_allclose(twins[1], np.array([1.0, 2.0]) - 0.1 * 0.001 * math.sqrt(5 / 2), rtol=1e-6)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("momentum", 1.0), ("momentum", -0.1), ("weight_decay", -1.0), ("trust_coefficient", 0.0)],
)
def test_lars_names_what_is_out_of_range(argument, value):
    with pytest.raises(ValueError, match=f"received .*{re.escape(str(value))}"):
        optimizers.LARS(0.1, excluded=(), **{argument: value})


def test_make_optimizer_names_the_choices():
    with pytest.raises(UserError, match="--optimizer=sgd: use one of lars, lamb, momentum, adam"):
        optimizers.make_optimizer("sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.0, excluded=[])


def test_momentum_is_nesterov_without_decay():
    variables = make_variables()
    optimizer = make("momentum", variables)
    momentum = float(np.float32(0.9))  # as Keras rounds it
    values = initial_values()
    velocities = [np.zeros_like(value) for value in values]
    for step in range(NUM_STEPS):
        rate = float(make_schedule()(step))
        gradients = gradient_values(step)
        optimizers.apply_gradients(optimizer, [tf.constant(g) for g in gradients], variables)
        for i, gradient in enumerate(gradients):
            velocities[i] = momentum * velocities[i] - rate * gradient
            values[i] = values[i] + momentum * velocities[i] - rate * gradient
    assert_all_close(variables, values, rtol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_optimizer_is_equal_eager_graph_and_xla(name):
    eager = train(name)
    assert_all_close(train(name, tf.function), eager, rtol=1e-12)
    assert_all_close(train(name, lambda f: tf.function(f, jit_compile=True)), eager, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", NAMES)
def test_optimizer_on_two_replicas_equals_one(name):
    strategy = two_replicas()
    with strategy.scope():
        variables = make_variables()
        optimizer = make(name, variables)

    @tf.function
    def step_function(gradients):
        def replica_step():
            context = tf.distribute.get_replica_context()
            weight = tf.cast(context.replica_id_in_sync_group + 1, tf.float64) / 3  # the parts sum to 1
            summed = context.all_reduce(tf.distribute.ReduceOp.SUM, [weight * g for g in gradients])
            optimizers.apply_gradients(optimizer, summed, variables)

        strategy.run(replica_step)

    for step in range(NUM_STEPS):
        step_function([tf.constant(g) for g in gradient_values(step)])
    expected = train(name)
    for replica in range(2):
        received = [strategy.experimental_local_results(variable)[replica] for variable in variables]
        assert_all_close(received, expected, rtol=1e-12)


def bits(optimizer, variables):
    """The bytes of the weights and of the optimizer's state, but for the step."""
    state = [v for v in optimizer.variables() if v is not optimizer.iterations]
    return [variable.numpy().tobytes() for variable in (*variables, *state)]


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: tf.function(f, jit_compile=True)], ids=["eager", "xla"])
@pytest.mark.parametrize("name", NAMES)
def test_step_left_out_counts_and_changes_nothing_else(name, wrap):
    variables = make_variables()
    optimizer = make(name, variables)
    good, bad = gradient_values(1), [np.full_like(g, np.nan) for g in gradient_values(1)]

    @wrap
    def apply(gradients, where):
        optimizers.apply_gradients(optimizer, gradients, variables, where=where)

    apply([tf.constant(g) for g in good], tf.constant(True))
    always = make_variables()
    optimizers.apply_gradients(make(name, always), [tf.constant(g) for g in good], always)
    assert_all_close(variables, always, rtol=1e-12)
    before = bits(optimizer, variables)
    assert len(before) > len(variables)
    apply([tf.constant(g) for g in bad], tf.constant(False))
    assert bits(optimizer, variables) == before
    assert int(optimizer.iterations) == 2


@pytest.mark.distributed
@pytest.mark.parametrize("name", NAMES)
def test_build_optimizer_outside_the_scope_makes_state_on_every_replica(name):
    strategy = two_replicas()
    with strategy.scope():
        variables = make_variables()
        optimizer = optimizers.make_optimizer(
            name, learning_rate=make_schedule(), momentum=0.9, weight_decay=0.01, excluded=[]
        )
    optimizers.build_optimizer(optimizer, variables)
    state = optimizer.variables() if callable(optimizer.variables) else optimizer.variables
    assert len(state) > len(variables)
    for variable in state:
        assert len(strategy.experimental_local_results(variable)) == 2


@pytest.mark.parametrize("name", NAMES)
def test_optimizer_goes_on_identically_from_a_checkpoint(name, tmp_path):
    def start():
        variables = make_variables()
        optimizer = make(name, variables)
        return variables, optimizer, tf.train.Checkpoint(variables=variables, optimizer=optimizer)

    def run(variables, optimizer, steps):
        for step in steps:
            gradients = [tf.constant(g) for g in gradient_values(step)]
            optimizers.apply_gradients(optimizer, gradients, variables)

    variables, optimizer, checkpoint = start()
    run(variables, optimizer, range(2))
    path = checkpoint.write(str(tmp_path / "ckpt"))
    run(variables, optimizer, range(2, NUM_STEPS))

    again, optimizer, checkpoint = start()
    status = checkpoint.read(path)
    status.assert_existing_objects_matched()
    status.assert_consumed()
    assert optimizer.iterations == 2
    run(again, optimizer, range(2, NUM_STEPS))
    for received, expected in zip(again, variables, strict=True):
        np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize("name", NAMES)
def test_build_optimizer_leaves_nothing_to_the_first_step(name):
    variables = make_variables()
    optimizer = make(name, variables)

    @tf.function
    def step_function(gradients):
        optimizers.apply_gradients(optimizer, gradients, variables)

    # A second trace would be an error for a function that makes variables.
    step_function([tf.constant(g) for g in gradient_values(0)])
    assert step_function.experimental_get_tracing_count() == 1


def test_apply_gradients_refuses_a_missing_gradient():
    variables = make_variables()
    optimizer = make("lars", variables)
    with pytest.raises(ValueError, match=r"leave them out: dense/bias:0\."):
        optimizers.apply_gradients(optimizer, [tf.zeros([3, 4]), None, tf.zeros([4, 2]), tf.zeros([2, 2])], variables)


def test_lars_config_holds_everything_but_the_excluded_variables():
    optimizer = optimizers.LARS(make_schedule(), excluded=(), momentum=0.8, weight_decay=0.1, clipnorm=3.0)
    config = optimizer.get_config()
    with pytest.raises(TypeError, match="excluded"):
        optimizers.LARS.from_config(dict(config))
    copy = optimizers.LARS.from_config(config | {"excluded": ()})
    assert copy.get_config() == optimizer.get_config()
    assert (config["momentum"], config["weight_decay"], config["clipnorm"]) == (0.8, 0.1, 3.0)


@pytest.mark.slow
def test_lars_trains_a_model_with_compile_and_fit():
    inputs = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    targets = inputs @ np.array([[1.0], [2.0], [-1.0], [0.5]], np.float32) + 3.0
    initializer = tf.keras.initializers.GlorotUniform(seed=0)
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, kernel_initializer=initializer)])
    model.build([None, 4])
    optimizer = optimizers.LARS(0.05, excluded=[model.layers[-1].bias], trust_coefficient=0.1)
    model.compile(optimizer, "mse")
    losses = model.fit(inputs, targets, epochs=20, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
