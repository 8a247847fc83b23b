"""The encoder: parameter counts, shapes, and every number against NumPy."""

import functools
import math
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.models import reference
from tests.support.marks import usual
from tests.support.networks import random_images, randomize, snapshot, tiny_config
from tests.support.runs import REPOSITORY
from tf_simclr.config import ModelConfig
from tf_simclr.models import build_simclr_model
from tf_simclr.models.layers import BranchMix, BranchSum, Conv2D, ShortcutPooling
from tf_simclr.models.resnet import scaled_filters

pytestmark = pytest.mark.stack

# (depth, width, selective kernels): parameters of the encoder with its moving statistics.
PARAMETERS = {
    (50, 1, False): 23_561_152,
    (50, 1, True): 35_277_408,
    (50, 2, False): 94_013_312,
    (50, 2, True): 140_428_864,
    (101, 1, False): 42_605_504,
    (101, 1, True): 64_786_144,
    (101, 2, False): 169_981_824,
    (101, 2, True): 257_377_984,
    (152, 1, False): 58_295_232,
    (152, 1, True): 89_119_584,
    (152, 2, False): 232_556_416,
    (152, 2, True): 353_752_896,
    (152, 3, True): 795_235_360,
}
USUAL = {(50, 1, False), (50, 1, True)}


def count(variables):
    return sum(math.prod(variable.shape) for variable in variables)


def network(depth, width=1.0, sk=False, **settings):
    """The encoder alone."""
    return ModelConfig(
        resnet_depth=depth,
        width_multiplier=width,
        sk_ratio=0.0625 if sk else 0.0,
        **({"proj_head_mode": "none"} | settings),
    )


@functools.cache
def build_in_graph(config):
    """Builds a network whose variables take no memory."""
    with tf.Graph().as_default():
        return build_simclr_model(config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "width", "sk"), usual(*USUAL, also=[name for name in PARAMETERS if name not in USUAL])
)
def test_parameters_equal_the_papers(depth, width, sk):
    assert count(build_in_graph(network(depth, width, sk)).variables) == PARAMETERS[depth, width, sk]


@pytest.mark.slow
def test_trainable_parameters_and_head_of_resnet50_equal_the_papers():
    encoder = build_in_graph(network(50, 1))
    whole = build_in_graph(network(50, proj_head_mode="nonlinear"))
    assert count(encoder.trainable_variables) == 23_508_032
    assert count(whole.trainable_variables) - count(encoder.trainable_variables) == 8_659_072
    assert count(whole.non_trainable_variables) - count(encoder.non_trainable_variables) == 8_448


@pytest.mark.parametrize(("depth", "expected"), [(18, 11_176_512), (34, 21_284_672)])
def test_trainable_parameters_of_basic_blocks_equal_the_usual_ones(depth, expected):
    """Plus the projection shortcut of the first group, which other programs leave out here."""
    encoder = build_in_graph(network(depth, 1))
    assert count(encoder.trainable_variables) == expected + 64 * 64 + 2 * 64


NETWORKS = {
    "basic": {"resnet_depth": 18, "width_multiplier": 0.25},
    "basic_sk": {"sk_ratio": 0.0625, "image_size": 64},
    "basic_se": {"se_ratio": 0.25},
    "bottleneck": {"resnet_depth": 50, "width_multiplier": 0.0625, "image_size": 64},
    "bottleneck_sk": {"resnet_depth": 50, "width_multiplier": 0.0625, "sk_ratio": 0.0625, "image_size": 64},
    "bottleneck_sk_se": {"resnet_depth": 50, "width_multiplier": 0.0625, "sk_ratio": 0.5, "se_ratio": 0.5},
}


@pytest.fixture(scope="module", params=NETWORKS)
def model(request):
    config = tiny_config(**({"width_multiplier": 0.125} | NETWORKS[request.param]))
    return randomize(build_simclr_model(config, num_classes=5))


def arrays(tree):
    return {k: arrays(v) if isinstance(v, dict) else v.numpy() for k, v in tree.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("training", "odd"), [(False, 0), (True, 1)], ids=["inference", "training"])
def test_forward_equals_numpy(model, training, odd):
    size = (16 if model.config.cifar_stem else 32) + odd
    images = random_images(8, size, size)
    oracle = reference.Reference(arrays(model.variable_tree()), model.config, training)
    endpoints, layers = oracle.forward(images)
    received = model.forward(tf.constant(images), training=training)
    assert received.endpoints.keys() == endpoints.keys()
    for name, expected in endpoints.items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(received.endpoints[name] / scale, expected / scale, rtol=0, atol=1e-9, err_msg=name)
    for ours, expected in zip(received.head_layers, layers, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    assert len(received.statistics) == len(model.norms) == len(oracle.statistics)
    for norm, statistics in zip(model.norms, received.statistics, strict=True):
        for ours, expected in zip(statistics, oracle.statistics[norm.name], strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-10, err_msg=norm.name)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [(5, 4), (8, 7)])
def test_conv_equals_loops(size, kernel_size, stride):
    layer = Conv2D(2, kernel_size, stride, dtype="float64")
    x = np.random.default_rng(0).normal(size=(2, *size, 3))
    received = layer(x).numpy()
    kernel, before = layer.kernel.numpy(), (kernel_size - 1) // 2
    for n, i, j, f in np.ndindex(*received.shape):
        total = 0.0
        for di, dj, c in np.ndindex(kernel_size, kernel_size, 3):
            row, column = i * stride + di - before, j * stride + dj - before
            if 0 <= row < size[0] and 0 <= column < size[1]:
                total += x[n, row, column, c] * kernel[di, dj, c, f]
        np.testing.assert_allclose(received[n, i, j, f], total, rtol=1e-10, atol=1e-12)
    assert received.shape[1:3] == tuple(-(-side // stride) for side in size)


def test_conv_of_size_1_takes_its_stride_before_the_kernel():
    """The kernel of a strided one damages memory; so its gradients are of one without stride."""
    layer = Conv2D(22, 1, 2)
    with tf.Graph().as_default() as graph:
        x = tf.zeros([25, 32, 32, 11])
        tf.gradients(layer(x), [x, layer.kernel])
        strides = {op.type: op.get_attr("strides") for op in graph.get_operations() if "Conv2D" in op.type}
    names = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter")
    assert strides == {name: [1, 1, 1, 1] for name in names}


# Shapes with which a strided convolution of size 1 wrote past its memory, on two threads.
BAD_SHAPES = """
import tf_simclr
import tensorflow as tf
from tf_simclr.models.layers import Conv2D
tf.config.threading.set_intra_op_parallelism_threads(2)
for batch, size, channels, filters in [(25, 32, 11, 22), (7, 64, 5, 22), (7, 12, 12, 4), (25, 16, 15, 24)] * 3:
    layer = Conv2D(filters, 1, 2)
    with tf.GradientTape() as tape:
        outputs = layer(tf.random.normal([batch, size, size, channels]))
    tape.gradient(outputs, layer.kernel)
"""


@pytest.mark.slow
def test_process_survives_the_gradient_of_a_strided_conv_of_size_1():
    """In a process of its own, which a kernel that damages memory would end."""
    assert subprocess.run([sys.executable, "-c", BAD_SHAPES], cwd=REPOSITORY, check=False).returncode == 0


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 1)])
def test_shortcut_pooling_equals_loops(size, strides):
    x = np.random.default_rng(0).normal(size=(2, *size, 3))
    received = ShortcutPooling(strides, dtype="float64")(x).numpy()
    assert received.shape[1:3] == tuple(-(-side // strides) for side in size)
    for n, i, j, c in np.ndindex(*received.shape):
        inside = [
            x[n, row, column, c]
            for row in (i * strides, i * strides + 1)
            for column in (j * strides, j * strides + 1)
            if row < size[0] and column < size[1]
        ]
        # Padding counts with stride 2 alone: there it is explicit, as the authors have it.
        expected = sum(inside) / (4 if strides == 2 else len(inside))
        np.testing.assert_allclose(received[n, i, j, c], expected, rtol=1e-12)


def test_branches_mix_by_a_softmax_over_both():
    rng = np.random.default_rng(0)
    features, logits = rng.normal(size=(2, 3, 3, 8)), 5 * rng.normal(size=(2, 1, 1, 8))
    received = BranchMix(dtype="float64")([features, logits])
    for n, i, j, c in np.ndindex(2, 3, 3, 4):
        weights = np.exp([logits[n, 0, 0, c], logits[n, 0, 0, 4 + c]])
        expected = (weights @ [features[n, i, j, c], features[n, i, j, 4 + c]]) / weights.sum()
        np.testing.assert_allclose(received[n, i, j, c], expected, rtol=1e-12)
    np.testing.assert_array_equal(BranchSum(dtype="float64")(features), features[..., :4] + features[..., 4:])
    extreme = np.tile(np.repeat([1000.0, -1000.0], 4), (2, 1, 1, 1))
    np.testing.assert_allclose(BranchMix(dtype="float64")([features, extreme]), features[..., :4])


@pytest.fixture(scope="module")
def fresh():
    """A network as it is initialised, wide enough for the statistics of its weights."""
    tf.keras.utils.set_random_seed(1)
    return build_simclr_model(tiny_config(resnet_depth=18, width_multiplier=0.5, precision="float32"), num_classes=10)


def test_last_norm_of_each_block_starts_at_zero_and_no_other(fresh):
    for norm in fresh.norms:
        expected = 0 if norm.name.endswith("/last_norm") else 1
        np.testing.assert_array_equal(norm.gamma, np.full(norm.gamma.shape, expected))
    assert sum(norm.name.endswith("/last_norm") for norm in fresh.norms) == 8


def test_blocks_start_as_their_shortcuts(fresh):
    x = tf.constant(random_images(4, 16, 16, dtype="float32"))
    for stage in fresh.encoder:
        outputs = stage(x, training=True)["features"]
        if stage.name.endswith("_block2"):
            np.testing.assert_array_equal(outputs, x)
        x = outputs


def test_convolutions_start_as_truncated_normals_scaled_by_fan_in(fresh):
    kernels = [k for k in snapshot(fresh).items() if k[1].ndim == 4]
    assert len(kernels) == 21
    for name, kernel in kernels:
        deviation = 1 / math.sqrt(math.prod(kernel.shape[:3]))
        num_errors = abs(kernel.std() / deviation - 1) * math.sqrt(2 * kernel.size)
        assert num_errors < 4, name
        assert abs(kernel.mean()) < 4 * deviation / math.sqrt(kernel.size), name
        # Cut at two deviations of the normal, whose deviation is then 0.8796 times as large.
        assert np.abs(kernel).max() <= 2 * deviation / 0.8796, name


def test_dense_kernels_start_as_small_normals(fresh):
    kernels = [k for k in snapshot(fresh).items() if k[1].ndim == 2]
    assert len(kernels) == 4
    for name, kernel in kernels:
        assert abs(kernel.std() / 0.01 - 1) < 4 / math.sqrt(2 * kernel.size), name
        assert abs(kernel.mean()) < 4 * 0.01 / math.sqrt(kernel.size), name


@pytest.mark.slow
@pytest.mark.parametrize("depth", usual(10, also=[50]))
def test_squeeze_width_follows_the_inner_width_of_the_block(depth):
    config = tiny_config(resnet_depth=depth, width_multiplier=0.0625, se_ratio=0.2)
    encoder = build_in_graph(config).variable_tree()["encoder"]
    for group, filters in enumerate((4, 8, 16, 32), start=1):
        block = encoder[f"block_group{group}_block1"]
        squeezed = max(1, int(filters * 0.2))
        out_filters = filters * (4 if depth == 50 else 1)
        assert block["squeeze"]["kernel"].shape == (1, 1, out_filters, squeezed)
        assert block["excite"]["kernel"].shape == (1, 1, squeezed, out_filters)
        assert block["squeeze"]["bias"].shape == (squeezed,)


def test_residual_stem_has_three_convolutions_and_initial_conv_precedes_the_norm():
    config = network(18, 0.5, True, image_size=64, precision="float64")
    model = randomize(build_simclr_model(config))
    stem = arrays(model.variable_tree())["encoder"]["stem"]
    assert [stem[f"conv{i}"]["kernel"].shape[3] for i in (1, 2, 3)] == [16, 16, 32]
    outputs = model.encoder[0](tf.constant(random_images(2, 64, 64)), training=False)
    initial = outputs["endpoints"]["initial_conv"].numpy()
    assert initial.min() < 0
    norm = stem["norm"]
    normalized = norm["gamma"] * (initial - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 1e-5)
    pooled = tf.nn.max_pool2d(np.maximum(normalized + norm["beta"], 0), 3, 2, "SAME")
    np.testing.assert_allclose(outputs["features"], pooled, atol=1e-12)


@pytest.mark.parametrize(("width", "expected"), [(0.1, 6), (0.0125, 1), (1, 64), (1.5, 96)])
def test_width_multiplier_scales_and_rounds_the_filters(width, expected):
    assert scaled_filters(64, network(18, width)) == expected


def test_stages_follow_the_table_of_blocks():
    for depth in (10, 34, 50):
        groups = [stage.group for stage in build_in_graph(network(depth, 1)).encoder]
        assert [groups.count(group) for group in range(5)] == [1, *reference.BLOCKS[depth]]
        assert groups == sorted(groups)
