"""The pretraining step: the same mathematics in every mode and on any number of replicas."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.support.marks import usual
from tests.support.networks import (
    assert_close,
    assert_identical,
    is_statistic,
    random_images,
    randomize,
    replicate,
    run_on_replicas,
    snapshot,
    tiny_config,
    two_replicas,
    variables,
)
from tf_simclr import optimizers
from tf_simclr.config import ContrastConfig, ExperimentConfig, OptimizerConfig
from tf_simclr.models import build_simclr_model
from tf_simclr.schedules import WarmupCosine
from tf_simclr.tasks.pretrain import PretrainTask

BATCH, CLASSES, STEPS = 8, 4, 3
PEAK_LARS, PEAK_MOMENTUM = 0.5, 0.01


def make_task(precision="float64", num_classes=CLASSES, optimizer="lars", contrast=None, **model):
    config = ExperimentConfig(
        model=tiny_config(precision=precision, **model),
        contrast=ContrastConfig(temperature=0.2, **(contrast or {})),
        optimizer=OptimizerConfig(optimizer=optimizer, weight_decay=0.01),
    )
    peak = PEAK_LARS if optimizer == "lars" else PEAK_MOMENTUM
    schedule = WarmupCosine(peak, 0, 100, dtype=config.model.variable_dtype)
    model = build_simclr_model(config.model, num_classes)
    task = PretrainTask(model, config.optimizer, schedule, config.contrast)
    randomize(task.model)
    return task


def make_batch(precision="float64", order=None, seed=0):
    order = np.arange(BATCH) if order is None else order
    views = [random_images(BATCH, 16, 16, seed=2 * seed + view, dtype=precision)[order] for view in (0, 1)]
    return {"views": tuple(views), "labels": (np.arange(BATCH) % CLASSES).astype("int32")[order]}


def tensors(batch):
    return tf.nest.map_structure(tf.constant, batch)


WRAP = {
    "eager": lambda function: function,
    "graph": functools.partial(tf.function, autograph=False),
    "xla": functools.partial(tf.function, autograph=False, jit_compile=True),
}


class Run:
    """What some steps did: metrics of each, the variables afterwards, and how much they changed."""

    def __init__(self, task, step, num_steps=STEPS):
        before = snapshot(task.model)
        self.metrics = []
        for _ in range(num_steps):
            self.metrics.append({name: float(value) for name, value in step().items()})
        self.variables = snapshot(task.model)
        self.changes = {name: self.variables[name] - before[name] for name in before}

    @property
    def losses(self):
        return [metrics["total_loss"] for metrics in self.metrics]


def run_in(mode, precision="float64", num_steps=STEPS, **settings):
    task = make_task(precision, **settings)
    batch, step = tensors(make_batch(precision)), WRAP[mode](task.train_step)
    return Run(task, lambda: step(batch), num_steps)


def run_replicated(strategy, num_steps=STEPS, graph=True, **settings):
    with strategy.scope():
        task = make_task(**settings)
    run_step = replicate(strategy, task.train_step, make_batch(), graph)

    def step():
        first, second = run_step()
        assert first == second
        return first

    run = Run(task, step, num_steps)
    for variable in variables(task.model).values():
        copies = [copy.numpy() for copy in strategy.experimental_local_results(variable)]
        assert copies[0].tobytes() == copies[1].tobytes(), variable.name
    return run


def assert_same_run(received, expected, tolerance=1e-9):
    # The task hands its metrics back in float32.
    np.testing.assert_allclose(received.losses, expected.losses, rtol=max(tolerance, 1e-7))
    assert_close(received.variables, expected.variables, tolerance)
    assert_close(received.changes, expected.changes, tolerance)
    for name, change in expected.changes.items():
        assert np.abs(change).max() > 1e-6, f"{name} hardly changed"


@pytest.fixture(scope="module")
def strategy():
    return two_replicas()


@pytest.fixture(scope="module")
def expected():
    return run_in("graph")


@pytest.mark.slow
@pytest.mark.parametrize("mode", usual("eager", also=["xla"]))
def test_train_step_is_the_same_in_every_mode_in_float64(expected, mode):
    assert_same_run(run_in(mode), expected)


def relative_difference(received, expected):
    """Norm of the difference of all changes, in parts of the norm of the changes."""
    pairs = [(received.changes[name], change) for name, change in expected.changes.items()]
    difference = sum(np.sum((x.astype("float64") - y) ** 2) for x, y in pairs)
    return np.sqrt(difference / sum(np.sum(y.astype("float64") ** 2) for _, y in pairs))


class OneStep:
    """One float32 step in some mode, from the same start every time."""

    def __init__(self, mode):
        self.task = make_task("float32")
        self.start = snapshot(self.task.model)
        self.step = WRAP[mode](self.task.train_step)

    def __call__(self, seed, order=None):
        for name, variable in variables(self.task.model).items():
            variable.assign(self.start[name])
        for variable in self.task.optimizer.variables():
            variable.assign(tf.zeros_like(variable))
        batch = tensors(make_batch("float32", order, seed))
        return Run(self.task, lambda: self.step(batch), 1)


one_step = functools.cache(OneStep)


@pytest.mark.slow
@pytest.mark.parametrize("mode", usual("eager", also=["xla"]))
def test_train_step_in_float32_is_the_same_within_the_noise_of_permuting_the_batch(mode):
    """Medians over batches: an activation that rounds to the other side of 0 moves a single one far."""
    graph, other = one_step("graph"), one_step(mode)
    orders = [np.random.default_rng(seed).permutation(BATCH) for seed in range(2)]
    noise, differences = [], []
    for seed in range(3):
        base, received = graph(seed), other(seed)
        differences.append(relative_difference(received, base))
        np.testing.assert_allclose(received.losses, base.losses, rtol=1e-4)
        noise.append(max(relative_difference(graph(seed, order), base) for order in orders))
        if mode == "xla":  # Its kernels round more.
            permuted = [relative_difference(other(seed, order), received) for order in orders]
            noise[-1] = max(noise[-1], *permuted)
    assert np.median(noise) < 0.02
    assert np.median(differences) < 3 * np.median(noise)


@pytest.mark.slow
@pytest.mark.parametrize("mode", usual("graph", also=["xla"]))
def test_moving_variance_in_float32_is_the_biased_one(mode):
    """What the fused kernel returns is not: in no mode may its factor be left."""
    exact, received = run_in("eager", num_steps=1), one_step(mode)(seed=0)
    for name in filter(is_statistic, exact.variables):
        np.testing.assert_allclose(received.variables[name], exact.variables[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("optimizer", usual("momentum", also=["adam"]))
@pytest.mark.exhaustive
def test_two_replicas_equal_one_with_other_optimizers(strategy, optimizer):
    """Adam divides by roots of squared gradients, which multiplies rounding."""
    received, expected = run_replicated(strategy, optimizer=optimizer), run_in("graph", optimizer=optimizer)
    tolerance = 1e-6 if optimizer == "adam" else 1e-9
    np.testing.assert_allclose(received.losses, expected.losses, rtol=1e-6)
    assert_close(received.changes, expected.changes, tolerance)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_replicas_equal_one_with_selective_kernels_and_the_decoupled_loss(strategy):
    settings = {
        "resnet_depth": 50,
        "width_multiplier": 0.0625,
        "sk_ratio": 0.0625,
        "contrast": {"contrastive_loss": "decoupled_nt_xent"},
    }
    received = run_replicated(strategy, num_steps=2, **settings)
    assert_same_run(received, run_in("graph", num_steps=2, **settings), 1e-8)


@pytest.mark.slow
@pytest.mark.distributed
def test_unsynchronized_batch_norm_averages_the_statistics_of_the_replicas(strategy):
    """Each replica normalises with its own rows: here two halves with statistics of their own."""
    received = run_replicated(strategy, num_steps=1, graph=False, global_bn=False).variables
    task, views = make_task(), make_batch()["views"]
    before, half = snapshot(task.model), BATCH // 2
    halves = [np.concatenate([view[rows] for view in views]) for rows in (slice(half), slice(half, BATCH))]
    passes = [task.model.forward(tf.constant(rows), training=True).statistics for rows in halves]
    paths = {id(variable): name for name, variable in variables(task.model).items()}
    for norm, *pairs in zip(task.model.norms, *passes, strict=True):
        for kind, values in zip((norm.moving_mean, norm.moving_variance), zip(*pairs, strict=True), strict=True):
            name = paths[id(kind)]
            wanted = 0.9 * before[name] + 0.1 * np.mean(values, axis=0)
            np.testing.assert_allclose(received[name], wanted, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_probe_leaves_the_backbone_bit_equal(precision):
    with_probe = run_in("eager", precision, num_steps=2).variables
    without = run_in("eager", precision, num_steps=2, num_classes=None).variables
    assert {name for name in with_probe if name not in without} == {
        "supervised_head/kernel",
        "supervised_head/bias",
    }
    assert_identical({name: with_probe[name] for name in without}, without)


@pytest.mark.slow
def test_metrics_are_what_they_say():
    task = make_task()
    batch = tensors(make_batch())
    outputs = task.model.forward(tf.concat(batch["views"], 0), training=True)
    projections = outputs.head_layers[-1].numpy()
    projections /= np.linalg.norm(projections, axis=1, keepdims=True)
    logits = projections @ projections.T / 0.2
    total = 0.0
    for row in range(2 * BATCH):
        others = [column for column in range(2 * BATCH) if column != row]
        positive = logits[row, (row + BATCH) % (2 * BATCH)]
        total += (np.log(np.sum(np.exp(logits[row, others]))) - positive) / BATCH
    ab = logits[:BATCH, BATCH:]
    scores = outputs.endpoints["logits_sup"].numpy()
    labels = np.tile(batch["labels"].numpy(), 2)
    log_shares = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    probe = -np.mean([log_shares[i, label] for i, label in enumerate(labels)])
    decay = 0.01 * np.sum(snapshot(task.model)["supervised_head/kernel"] ** 2) / 2
    metrics = task.train_step(batch)
    assert set(metrics) == set(task.metric_names)
    expected = {
        "contrast_loss": total,
        "contrast_acc": np.mean(ab.argmax(axis=1) == np.arange(BATCH)),
        "supervised_loss": probe,
        "supervised_acc": np.mean(scores.argmax(axis=1) == labels),
        "weight_decay": decay,
        "total_loss": total + probe + decay,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_projections_stay_as_they_are_without_hidden_norm():
    task = make_task(contrast={"hidden_norm": False})
    batch = tensors(make_batch())
    z = task.model.forward(tf.concat(batch["views"], 0), training=True).head_layers[-1].numpy()
    logits = z @ z.T / 0.2 - 1e30 * np.eye(2 * BATCH)
    positives = [logits[row, (row + BATCH) % (2 * BATCH)] for row in range(2 * BATCH)]
    largest = logits.max(axis=1)
    sums = np.log(np.exp(logits - largest[:, None]).sum(axis=1)) + largest
    loss = task.train_step(batch)["contrast_loss"]
    np.testing.assert_allclose(loss, np.sum(sums - positives) / BATCH, rtol=1e-6)


def is_excluded(name):
    return name.startswith("supervised_head/") or name.endswith(("/gamma", "/beta", "/bias"))


@pytest.mark.parametrize("se_ratio", [0.0, 0.25])
def test_lars_excludes_norms_biases_and_the_supervised_head(monkeypatch, se_ratio):
    received = {}
    make = optimizers.make_optimizer

    def record(name, **settings):
        received.update(settings)
        return make(name, **settings)

    monkeypatch.setattr(optimizers, "make_optimizer", record)
    task = make_task(se_ratio=se_ratio)
    named = variables(task.model)
    expected = {id(v) for n, v in named.items() if is_excluded(n) and not is_statistic(n)}
    assert {id(variable) for variable in received["excluded"]} == expected
    assert len(received["excluded"]) == len(expected)
    assert received["weight_decay"] == 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "num_classes"), [("lars", CLASSES), ("lars", None), ("momentum", CLASSES), ("adam", None)]
)
def test_weight_decay_in_the_loss_covers_what_the_optimizer_does_not(optimizer, num_classes):
    task = make_task(optimizer=optimizer, num_classes=num_classes, se_ratio=0.25)
    values = snapshot(task.model)
    if optimizer == "lars":
        decayed = [name for name in values if name == "supervised_head/kernel"]
    else:
        decayed = [n for n in values if not n.endswith(("/gamma", "/beta")) and not is_statistic(n)]
    expected = 0.01 * sum(np.sum(values[name] ** 2) for name in decayed) / 2
    received = task.train_step(tensors(make_batch()))["weight_decay"]
    np.testing.assert_allclose(received, expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        {"proj_head_mode": "none"},
        {"proj_head_mode": "linear", "ft_proj_selector": 1},
        {"num_proj_layers": 1, "ft_proj_selector": -1},
    ],
    ids=["none", "linear", "one_layer"],
)
def test_every_projection_head_trains(model):
    run = run_in("eager", num_steps=1, **model)
    assert all(np.isfinite(value) for value in run.metrics[0].values())
    assert all(np.abs(change).max() > 0 for change in run.changes.values())


@pytest.mark.slow
def test_zero_initialised_probe_learns_in_the_first_step():
    task = make_task(zero_init_logits_layer=True)
    kernel = task.model.supervised_head.kernel
    kernel.assign(tf.zeros_like(kernel))
    task.train_step(tensors(make_batch()))
    assert np.abs(kernel.numpy()).max() > 0


@pytest.mark.slow
def test_iterations_count_the_steps_and_the_loss_falls():
    task, losses = make_task("float32", num_classes=None, optimizer="adam"), []
    step, batch = WRAP["graph"](task.train_step), tensors(make_batch("float32"))
    for number in range(15):
        assert int(task.optimizer.iterations) == number
        losses.append(float(step(batch)["total_loss"]))
    assert losses[-1] < 0.7 * losses[0]


MASK = np.array([1, 1, 0, 1, 0, 1, 1, 0], "float32")


@pytest.fixture(scope="module")
def evaluated():
    """A task with 7 classes, an evaluation batch, and what it says of each row, by plain loops."""
    task = make_task(num_classes=7)
    images = random_images(BATCH, 16, 16, seed=3)
    labels = np.array([0, 3, 6, 2, 2, 5, 1, 4], "int32")
    logits = task.model.forward(tf.constant(images), training=False).endpoints["logits_sup"].numpy()
    columns = {name: [] for name in ("label", "prediction", "confidence", "is_in_top_5", "loss", "mask")}
    for row, label, real in zip(logits, labels, MASK, strict=True):
        likeliest = max(range(7), key=lambda number: row[number])
        columns["label"].append(label)
        columns["prediction"].append(likeliest)
        columns["confidence"].append(np.exp(row[likeliest]) / np.sum(np.exp(row)))
        columns["is_in_top_5"].append(sum(other > row[label] for other in row) < 5)
        columns["loss"].append(np.log(np.sum(np.exp(row))) - row[label])
        columns["mask"].append(real)
    return task, {"images": images, "labels": labels, "mask": MASK}, columns


def check_rows(received, expected):
    assert received.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(received[name], values, rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_eval_step_tells_of_each_row_and_changes_nothing(evaluated):
    task, batch, expected = evaluated
    before = snapshot(task.model)
    check_rows(task.eval_step(tensors(batch)), expected)
    assert_identical(snapshot(task.model), before)


@pytest.mark.slow
@pytest.mark.distributed
def test_eval_step_tells_of_the_rows_of_all_replicas(evaluated, strategy):
    _, batch, expected = evaluated
    with strategy.scope():
        task = make_task(num_classes=7)
    for received in run_on_replicas(strategy, task.eval_step, batch):
        check_rows(received, expected)
