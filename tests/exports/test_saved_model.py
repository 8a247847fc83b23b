"""The exported module: reloaded where this project is not, it gives what the network gave."""

import pathlib
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest
import tensorflow as tf

from exports import saved_model
from exports.saved_model import SavedModelExport, make_module, save_model
from tests.networks import two_replicas
from tests.runs import TINY, TOTAL_STEPS, finished_run
from tf_simclr.checkpoint import initialize_from
from tf_simclr.config import ModelConfig, UserError
from tf_simclr.models import build_simclr_model

BASE = {name: TINY[name] for name in ("resnet_depth", "width_multiplier", "image_size", "proj_out_dim")}
NAMES = [f"block_group{number}" for number in (1, 2, 3, 4)]
NAMES += ["initial_conv", "initial_max_pool", "final_avg_pool", "default"]
NAMES += ["proj_head_input", "proj_head_output", "logits_sup"]


@pytest.fixture(scope="module")
def model():
    """The network of the finished run."""
    model = build_simclr_model(ModelConfig(**BASE), 10)
    initialize_from(str(finished_run().directory), model)
    return model


@pytest.fixture(scope="module")
def reloaded():
    return load()


def load():
    return tf.saved_model.load(str(finished_run().directory / "saved_model" / str(TOTAL_STEPS)))


def random_images(*shape):
    return np.random.default_rng(0).uniform(size=(*shape, 3)).astype(np.float32)


def assert_same(received, expected):
    assert set(received) == set(expected) == set(NAMES)
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_export_reloads_in_a_process_without_this_project(model, tmp_path):
    images = random_images(3, 8, 8)
    np.save(tmp_path / "images.npy", images)
    path = finished_run().directory / "saved_model" / str(TOTAL_STEPS)
    script = f"""
        import sys
        import numpy as np
        import tensorflow as tf
        module = tf.saved_model.load({str(path)!r})
        outputs = module(np.load("images.npy"), training=False)
        assert not [name for name in sys.modules if name.startswith(("tf_simclr", "exports", "flags."))]
        np.savez("outputs.npz", **{{name: value.numpy() for name, value in outputs.items()}})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = {name: value.numpy() for name, value in model(images, training=False).items()}
    assert_same(dict(np.load(tmp_path / "outputs.npz")), expected)


@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 8, 8), (2, 24, 17)])
def test_export_takes_any_number_and_size_of_images(model, reloaded, shape):
    images = random_images(*shape)
    expected = model(images, training=False)
    assert_same(reloaded(images), expected)
    assert_same(reloaded(images, training=False), expected)
    assert_same(reloaded(images, trainable=False), expected)


def test_export_serving_signature_has_every_name(model, reloaded):
    serve = reloaded.signatures["serving_default"]
    assert set(serve.structured_outputs) == set(NAMES)
    ((), arguments) = serve.structured_input_signature
    assert arguments["images"].shape.as_list() == [None, None, None, 3]
    assert arguments["images"].dtype == tf.float32
    images = random_images(2, 8, 8)
    assert_same(serve(images=tf.constant(images)), model(images, training=False))


def test_export_in_training_uses_and_updates_the_batch_statistics(model):
    reloaded, images = load(), random_images(4, 8, 8)
    copy = build_simclr_model(ModelConfig(**BASE), 10)
    copy.set_weights(model.get_weights())
    assert_same(reloaded(images, training=True), copy(images, training=True))
    # Both have moved their averages in the same way.
    after = copy(images, training=False)
    assert_same(reloaded(images), after)
    assert np.abs(after["default"] - model(images, training=False)["default"]).max() > 1e-4
    assert_same(reloaded(images, trainable=True), copy(images, training=True))


def test_export_has_finite_gradients_for_what_can_be_trained(model, reloaded):
    variables = reloaded.trainable_variables
    assert len(variables) == len(model.trainable_variables)
    assert len(reloaded.variables) == len(model.variables)
    with tf.GradientTape() as tape:
        outputs = reloaded(random_images(2, 8, 8), training=True)
        loss = tf.reduce_sum(outputs["logits_sup"] ** 2) + tf.reduce_sum(outputs["proj_head_output"] ** 2)
    gradients = tape.gradient(loss, variables)
    assert all(gradient is not None for gradient in gradients)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert sum(np.abs(gradient).max() > 0 for gradient in gradients) > len(gradients) // 2


def test_module_without_a_probe_has_no_logits():
    module = make_module(build_simclr_model(ModelConfig(**BASE | {"proj_head_mode": "none"})))
    assert set(module.serve(random_images(1, 8, 8))) == set(NAMES) - {"logits_sup"}


@pytest.mark.slow
@pytest.mark.distributed
def test_export_of_a_mirrored_network_equals_it(model, tmp_path):
    strategy = two_replicas()
    with strategy.scope():
        mirrored = build_simclr_model(ModelConfig(**BASE), 10)
    mirrored.set_weights(model.get_weights())
    save_model(mirrored, str(tmp_path / "export"))
    images = random_images(3, 8, 8)
    assert_same(tf.saved_model.load(str(tmp_path / "export"))(images), model(images, training=False))


def make_event(step=5, is_last=True, model=None):
    return types.SimpleNamespace(step=step, is_last=is_last, task=types.SimpleNamespace(model=model))


def test_export_action_exports_once_at_the_end(tmp_path, monkeypatch):
    calls = []

    def save(model, path):
        calls.append(path)
        pathlib.Path(path).mkdir(parents=True)

    monkeypatch.setattr(saved_model, "save_model", save)
    export = SavedModelExport(str(tmp_path))
    export(make_event(step=4, is_last=False))
    export(make_event())
    export(make_event())
    assert calls == [str(tmp_path / "saved_model" / "5")]


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, "disk full, and\nmore"),
        OSError("no"),
        KeyboardInterrupt(),
    ],
    ids=["TensorFlow", "OSError", "Ctrl-C"],
)
def test_export_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch, error):
    def save(module, path, signatures):
        pathlib.Path(path).mkdir(parents=True)
        (pathlib.Path(path) / "half").write_text("x")
        raise error

    monkeypatch.setattr(saved_model, "make_module", lambda model: types.SimpleNamespace(serve=None))
    monkeypatch.setattr(tf.saved_model, "save", save)
    path = str(tmp_path / "saved_model" / "5")
    with pytest.raises((UserError, KeyboardInterrupt)) as raised:
        save_model(None, path)
    assert list((tmp_path / "saved_model").iterdir()) == []
    if raised.type is UserError:
        assert str(raised.value).startswith(f"--model_dir: cannot write {path} (")
        assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_export_of_a_mixed_network_computes_in_float32(tmp_path):
    """On the same weights it is the module of a float32 network, to the bit."""
    mixed = build_simclr_model(ModelConfig(**BASE, precision="mixed_bfloat16"), 10)
    plain = build_simclr_model(ModelConfig(**BASE), 10)
    plain.set_weights(mixed.get_weights())
    save_model(mixed, str(tmp_path / "module"))
    images = random_images(2, 8, 8)
    received = tf.saved_model.load(str(tmp_path / "module"))(images, trainable=False)
    assert {value.dtype for value in received.values()} == {tf.float32}
    assert_same(received, plain(images, training=False))
