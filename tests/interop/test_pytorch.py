"""Weights with torchvision's names and layout give the outputs of the network."""

import importlib.util
import json
import re

import numpy as np
import pytest

from exports.pytorch import write_pytorch
from tests.models.reference import conv, max_pool, relu
from tests.support.marks import usual
from tests.support.networks import random_images, randomize, tiny_config
from tests.support.runs import REPOSITORY
from tf_simclr.config import ModelConfig, UserError
from tf_simclr.interop.pytorch import check_torchvision_has, to_head_state, to_resnet_state
from tf_simclr.models import build_simclr_model

BLOCKS = (3, 4, 6, 3)
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def make_model(num_classes=7, **changes):
    """R50 with the large stem, an eighth as wide, in float32 like the files."""
    config = tiny_config(**{"resnet_depth": 50, "image_size": 40, "precision": "float32"} | changes)
    return randomize(build_simclr_model(config, num_classes))


@pytest.fixture(scope="module")
def model():
    return make_model()


def torchvision_names() -> set[str]:
    """The names of torchvision.models.resnet50."""
    convolutions = {"conv1": "bn1"}
    for group, num_blocks in enumerate(BLOCKS, start=1):
        for block in range(num_blocks):
            for number in (1, 2, 3):
                convolutions[f"layer{group}.{block}.conv{number}"] = f"layer{group}.{block}.bn{number}"
        convolutions[f"layer{group}.0.downsample.0"] = f"layer{group}.0.downsample.1"
    names = {f"{name}.weight" for name in convolutions} | {"fc.weight", "fc.bias"}
    return names | {f"{norm}.{name}" for norm in convolutions.values() for name in BATCH_NORM}


class TorchvisionForward:
    """torchvision's forward pass in NumPy, but for the padding of the max pooling."""

    def __init__(self, state):
        self.state = state

    def conv(self, x, name, stride=1):
        return conv(x, self.state[f"{name}.weight"].transpose(2, 3, 1, 0), stride)

    def norm(self, x, name):
        weight, bias, mean, variance, _ = (self.state[f"{name}.{key}"] for key in BATCH_NORM)
        return weight * (x - mean) / np.sqrt(variance + 1e-5) + bias

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T + self.state.get(f"{name}.bias", 0)

    def bottleneck(self, x, name, stride):
        y = relu(self.norm(self.conv(x, f"{name}.conv1"), f"{name}.bn1"))
        y = relu(self.norm(self.conv(y, f"{name}.conv2", stride), f"{name}.bn2"))
        y = self.norm(self.conv(y, f"{name}.conv3"), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in self.state:
            x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return relu(x + y)

    def features(self, images):
        x = max_pool(relu(self.norm(self.conv(images, "conv1", 2), "bn1")))
        for group, num_blocks in enumerate(BLOCKS, start=1):
            for block in range(num_blocks):
                x = self.bottleneck(x, f"layer{group}.{block}", 2 if group > 1 and block == 0 else 1)
        return x.mean(axis=(1, 2))


def assert_near(received, expected):
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_state_has_the_names_of_torchvision(model):
    state = to_resnet_state(model)
    assert state.keys() == torchvision_names()
    for name, array in state.items():
        assert array.dtype == ("int64" if name.endswith("num_batches_tracked") else "float32")
        assert array.flags.c_contiguous


def test_state_gives_the_outputs_of_the_network(model):
    images = random_images(1, 40, 33)
    outputs = model(images.astype("float32"), training=False)
    network = TorchvisionForward(to_resnet_state(model))
    features = network.features(images)
    assert_near(features, outputs["final_avg_pool"].numpy())
    assert_near(network.linear(features, "fc"), outputs["logits_sup"].numpy())


@pytest.mark.parametrize("selector", usual(0, -1, also=[1, 3]))
def test_head_state_gives_the_outputs_of_the_heads(selector):
    model = make_model(resnet_depth=10, ft_proj_selector=selector)
    outputs = model(random_images(2, 8, 8, dtype="float32"), training=False)
    state = to_head_state(model)
    network = TorchvisionForward(state | to_resnet_state(model))
    layers = [outputs["proj_head_input"].numpy()]
    for number in range(3):
        x = network.linear(layers[-1], f"projection_head.{number}.dense")
        x = network.norm(x, f"projection_head.{number}.norm")
        layers.append(x if number == 2 else relu(x))
    assert_near(layers[-1], outputs["proj_head_output"].numpy())
    classifier = "supervised_head" if selector else "fc"
    assert (f"{classifier}.weight" in state) == bool(selector)
    assert_near(network.linear(layers[selector], classifier), outputs["logits_sup"].numpy())


def test_network_without_heads_has_neither_fc_nor_a_second_file(tmp_path):
    model = make_model(num_classes=None, proj_head_mode="none", resnet_depth=18)
    write_pytorch(model, str(tmp_path), {})
    assert {path.stem for path in tmp_path.iterdir()} == {"resnet", "metadata"}
    assert "fc.weight" not in to_resnet_state(model)


@pytest.mark.parametrize("extension", [".safetensors", ".npz"])
def test_files_hold_the_arrays_bit_for_bit(model, tmp_path, monkeypatch, extension):
    if extension == ".npz":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        read = np.load
    else:
        read = pytest.importorskip("safetensors.numpy").load_file
    write_pytorch(model, str(tmp_path), {"image_size": 40})
    for name, state in (("resnet", to_resnet_state(model)), ("heads", to_head_state(model))):
        received = dict(read(tmp_path / f"{name}{extension}"))
        assert received.keys() == state.keys()
        for key, array in state.items():
            assert received[key].dtype == array.dtype
            np.testing.assert_array_equal(received[key], array, err_msg=key)
    assert json.loads((tmp_path / "metadata.json").read_text()) == {"image_size": 40}


@pytest.mark.parametrize(
    "changes",
    [{"resnet_depth": 18}, {"width_multiplier": 2}, {"sk_ratio": 0.0625}, {"se_ratio": 0.25}, {"image_size": 32}],
    ids=str,
)
def test_network_that_torchvision_lacks_is_refused(changes):
    check_torchvision_has(ModelConfig())
    ((flag, value),) = changes.items()
    with pytest.raises(UserError, match=rf"^--export_formats=pytorch: torchvision's ResNets have no {flag}={value}, "):
        check_torchvision_has(ModelConfig(**changes))


@pytest.mark.slow
def test_torchvision_loads_it_as_in_the_docs_and_computes_the_same(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    pytest.importorskip("safetensors")
    model = make_model(width_multiplier=1, num_classes=10, proj_out_dim=128)
    write_pytorch(model, str(tmp_path), {})
    monkeypatch.chdir(tmp_path)
    section = (REPOSITORY / "docs" / "exports.md").read_text().split("\n## PyTorch\n")[1].split("\n## ")[0]
    docs: dict = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL)), docs)
    np.savez("resnet.npz", **to_resnet_state(model))
    docs["network"].load_state_dict(docs["load_npz"]("resnet.npz"))
    network, heads, received = docs["network"], docs["heads"]["projection_head"], {}
    for number in (1, 2, 3, 4):
        layer = getattr(network, f"layer{number}")
        layer.register_forward_hook(lambda module, given, output, n=number: received.__setitem__(n, output))
    for shape in ((2, 64, 64), (1, 65, 50)):
        images = random_images(*shape, dtype="float32")
        outputs = model(images, training=False)
        with torch.no_grad():
            logits = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
            z = received[4].mean(dim=(2, 3))
            for number, layer in enumerate(heads):
                z = layer["norm"](layer["dense"](torch.relu(z) if number else z))
        assert_near(logits.numpy(), outputs["logits_sup"].numpy())
        assert_near(z.numpy(), outputs["proj_head_output"].numpy())
        for number in (1, 2, 3, 4):
            assert_near(received[number].numpy().transpose(0, 2, 3, 1), outputs[f"block_group{number}"].numpy())
