"""The step in PyTorch equals ours; needs PyTorch."""

import importlib

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.synthetic import make_batch, make_task, training_of
from tests.support.networks import randomize, tiny_config
from tf_simclr.config import BenchmarkConfig, ModelConfig, OptimizerConfig
from tf_simclr.interop.pytorch import to_head_state, to_resnet_state
from tf_simclr.losses import nt_xent_loss
from tf_simclr.optimizers import lars_update

torch = pytest.importorskip("torch")
torch_step = importlib.import_module("benchmarks.torch_step")


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def training(**changes):
    model: ModelConfig = tiny_config(**changes)
    optimizer = OptimizerConfig(weight_decay=0.01)
    return training_of(BenchmarkConfig(model=model, optimizer=optimizer, benchmark="step", benchmark_batch_size=6))


def load(module, arrays):
    module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})


def steps_of(config):
    """The task and the step in PyTorch with the same weights, and a batch for each."""
    task = make_task(config)
    randomize(task.model)
    step = torch_step.TorchStep(config)
    encoder = to_resnet_state(task.model)
    probe = {name.removeprefix("fc."): encoder.pop(name) for name in ("fc.weight", "fc.bias")}
    load(step.encoder, encoder)
    load(step.head, to_head_state(task.model))
    load(step.probe, probe)
    # The weights travel as float32.
    for variable in task.model.variables:
        variable.assign(tf.cast(tf.cast(variable, tf.float32), variable.dtype))
    batch = make_batch(task, config)
    views = np.concatenate([view.numpy() for view in batch["views"]]).astype(np.float64)
    batch["views"] = tuple(tf.constant(view) for view in np.split(views, 2))
    images = torch.from_numpy(views.transpose(0, 3, 1, 2).copy())
    return task, batch, step, images, torch.from_numpy(batch["labels"].numpy().astype(np.int64))


@pytest.mark.slow
@pytest.mark.parametrize("depth", [10, 50])
def test_loss_and_gradients_equal_ours(depth):
    task, batch, step, images, labels = steps_of(training(resnet_depth=depth))
    loss = step.backward(images, labels)
    gradients, _, metrics = task.compute_gradients(batch)
    np.testing.assert_allclose(float(loss), metrics["total_loss"].numpy(), rtol=1e-10)
    received = [p.grad for m in (step.encoder, step.head, step.probe) for p in m.parameters() if p.requires_grad]
    ours = sorted(float(tf.norm(gradient)) for gradient in gradients)
    np.testing.assert_allclose(sorted(float(g.norm()) for g in received), ours, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_large_stem_has_our_shapes():
    config = training(image_size=40)
    _, _, step, images, labels = steps_of(config)
    assert np.isfinite(float(step(images, labels)))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_loss_is_nt_xent(temperature):
    rows = np.random.default_rng(0).normal(size=(2, 5, 3))
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    received = torch_step.nt_xent_loss(*torch.from_numpy(rows), temperature)
    expected = nt_xent_loss(*rows, temperature=temperature).loss
    np.testing.assert_allclose(float(received), expected.numpy(), rtol=1e-12)


def test_update_equals_lars():
    rng = np.random.default_rng(1)
    decayed, excluded = (
        [torch.tensor(rng.normal(size=shape), requires_grad=True) for shape in shapes]
        for shapes in (((3, 4), (2, 2)), ((5,),))
    )
    decayed.append(torch.zeros(2, 3, requires_grad=True))  # Its trust ratio is 1.
    lars = torch_step.Lars(decayed, excluded, momentum=0.9, weight_decay=0.01)
    expected = [(v.detach().numpy().copy(), np.zeros(v.shape)) for v in (*decayed, *excluded)]
    for _ in range(3):
        for number, variable in enumerate((*decayed, *excluded)):
            variable.grad = torch.tensor(rng.normal(size=variable.shape))
            value, velocity = expected[number]
            gradient = variable.grad.numpy().copy()
            step = 0.5 * gradient
            if number < len(decayed):
                options = {"learning_rate": 0.5, "weight_decay": 0.01, "trust_coefficient": 0.001}
                step = lars_update(value, gradient, **options).numpy()
            velocity = 0.9 * velocity + step
            expected[number] = (value - velocity, velocity)
        lars.step(0.5)
    for variable, (value, _) in zip((*decayed, *excluded), expected, strict=True):
        np.testing.assert_allclose(variable.detach().numpy(), value, rtol=1e-12)
