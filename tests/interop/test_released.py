"""The authors' files become runs of this program that compute what the authors' networks compute."""

import numpy as np
import pytest
import tensorflow as tf

from tests.interop.authors_files import AuthorsNetwork, with_training_state, write_tf1, write_tf2
from tests.interop.importing import FINETUNED, import_from, network, settings_of
from tests.support.marks import usual
from tests.support.runs import run_program, write_images
from tf_simclr.config import ModelConfig, UserError
from tf_simclr.interop.released_files import ReleasedFile, _head_layer_of_logits, open_released
from tf_simclr.interop.released_network import infer_network, released_names
from tf_simclr.models import build_simclr_model
from tf_simclr.runs.networks import load_network


def assert_computes_what(directory, theirs):
    ours = load_network(str(directory), "checkpoint")(theirs.images.astype(np.float32), training=False)
    for name, expected in theirs.outputs.items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=1e-4 * scale, err_msg=name)


# ---- What is computed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "step", "expected"),
    [
        ({}, 250_228, {"resnet_depth": 18, "train_mode": "pretrain"}),
        (FINETUNED, 751, {"ft_proj_selector": 1, "train_mode": "finetune"}),
        ({"classes": 5}, 37_535, {"ft_proj_selector": 0, "train_mode": "finetune"}),
        ({"classes": 5}, 250_228, {"ft_proj_selector": 0, "train_mode": "pretrain"}),
        ({"head": (), "classes": 5}, 1000, {"proj_head_mode": "none", "ft_proj_selector": 0}),
        pytest.param(
            {"depth": 50, "sk": 0.0625} | FINETUNED,
            3754,
            {"resnet_depth": 50, "sk_ratio": 0.0625},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"depth": 18, "sk": 0.0625},
            250_228,
            {"resnet_depth": 18, "sk_ratio": 0.0625},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"depth": 34, "small": True, "head": (8, 4)},
            250_228,
            {"image_size": 32, "num_proj_layers": 2},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["pretrained", "1%", "100%", "probe", "v1", "R50 SK", "R18 SK", "R34 small"],
)
def test_tf1_checkpoint_computes_what_the_authors_network_does(tmp_path, settings, step, expected):
    theirs = network(**settings)
    path = write_tf1(tmp_path / "r" / f"model.ckpt-{step}", with_training_state(theirs.variables, step))
    import_from(path, tmp_path / "run")
    assert_computes_what(tmp_path / "run", theirs)
    common = {"width_multiplier": 0.125, "train_steps": step}
    assert settings_of(tmp_path / "run").items() >= (common | expected).items()
    assert (tmp_path / "run" / f"ckpt-{step}.index").exists()


LARGE = {"depth": 101, "width": 0.25, "sk": 0.0625, "head": (64, 64, 16)} | FINETUNED


@pytest.mark.slow
@pytest.mark.parametrize("write", usual(write_tf1, also=[write_tf2]))
def test_wide_network_of_the_authors_depth_computes_what_theirs_does(tmp_path, write):
    """R101 2x SK, the 2x of an eighth."""
    theirs = network(**LARGE)
    import_from(write(tmp_path / "r" / "x", theirs.variables), tmp_path / "run", ft_proj_selector=1)
    assert_computes_what(tmp_path / "run", theirs)
    expected = {"resnet_depth": 101, "width_multiplier": 0.25, "sk_ratio": 0.0625, "proj_out_dim": 16}
    assert settings_of(tmp_path / "run").items() >= expected.items()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    usual({}, also=[{"depth": 50, "sk": 0.0625} | FINETUNED]),
    ids=["R18", "R50 SK"],
)
def test_tf2_saved_model_computes_what_the_authors_network_does(tmp_path, settings):
    theirs = network(**settings)
    import_from(write_tf2(tmp_path / "hub", theirs.variables, 751), tmp_path / "run")
    assert_computes_what(tmp_path / "run", theirs)


@pytest.mark.parametrize("name", ["model.ckpt-3754", "model.ckpt"])
def test_step_in_the_name_of_a_file_counts_where_the_file_has_none(tmp_path, name):
    variables = {key: value for key, value in network(**FINETUNED).variables.items() if key != "global_step"}
    file = open_released(str(write_tf1(tmp_path / name, variables)))
    assert file.step == (3754 if name.endswith("3754") else None)


@pytest.mark.slow
def test_average_of_the_weights_is_taken_where_asked(tmp_path):
    theirs, other = network(classes=5), AuthorsNetwork(classes=5)
    other.variables = {name: value + 0.125 for name, value in other.variables.items()}
    average = {f"ema_model/{name}": value for name, value in theirs.variables.items() if "supervised" not in name}
    plain = {name: value for name, value in other.variables.items() if "supervised" not in name}
    head = {name: value for name, value in theirs.variables.items() if "supervised" in name}
    variables = with_training_state(plain | average | head, 250_228)
    path = write_tf1(tmp_path / "r" / "model.ckpt-250228", variables)
    import_from(path, tmp_path / "average", ema=True)
    assert_computes_what(tmp_path / "average", theirs)
    import_from(path, tmp_path / "plain")
    other.variables |= head
    other.outputs = other.forward(other.images)
    assert_computes_what(tmp_path / "plain", other)


# ---- What is told from a file


class ShapesOnly(AuthorsNetwork):
    """Makes shapes in place of variables: those of the largest networks take gigabytes."""

    def _variable(self, name, shape, low=None):
        self.variables[name] = shape
        return np.broadcast_to(0.0, shape)

    def conv(self, x, filters, size, stride=1):
        self._variable(f"{self._name('conv2d')}/kernel", (size, size, x.shape[-1], filters))
        return np.zeros((1, 1, 1, filters))

    def forward(self, images):
        return super().forward(np.zeros((1, 1, 1, 3)))


def told_from(theirs, step=751, asked=None, stated=(), head_layer=None):
    file = ReleasedFile("--checkpoint=file", theirs.variables, step, head_layer, None, {})
    return infer_network(file, asked or ModelConfig(), stated)


PAPERS = [(depth, width, sk) for depth in (50, 101, 152) for width in (1, 2) for sk in (0.0, 0.0625)]


@pytest.mark.parametrize(("depth", "width", "sk"), [*PAPERS, (152, 3, 0.0625), (18, 1, 0.0), (34, 2, 0.0625)])
def test_network_is_told_from_names_and_shapes(depth, width, sk):
    network = told_from(ShapesOnly(depth, width, sk=sk, head=(8, 8, 128), **FINETUNED | {"classes": 1000}))
    assert network.config == ModelConfig(resnet_depth=depth, width_multiplier=width, sk_ratio=sk, ft_proj_selector=1)
    assert (network.num_classes, network.train_mode) == (1000, "finetune")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "width", "sk"),
    usual((50, 1, 0.0625), also=[(101, 2, 0.0625)]),
)
def test_names_and_shapes_are_those_of_the_authors_one_to_one(depth, width, sk):
    theirs = ShapesOnly(depth, width, sk=sk, head=(8, 8, 128), **FINETUNED | {"classes": 1000})
    ours = released_names(build_simclr_model(told_from(theirs).config, 1000))
    assert {name: tuple(variable.shape) for name, variable in ours.items()} == theirs.variables


def test_layers_are_as_many_as_the_authors_have():
    """R50 has 53 convolutions and batch norms, R50 SK 87 and 71."""
    for sk, convolutions, norms in ((0.0, 53, 53), (0.0625, 87, 71)):
        names = ShapesOnly(50, sk=sk, head=()).variables
        assert sum("/conv2d" in name for name in names) == convolutions
        assert sum(name.endswith("/gamma") for name in names) == norms


def test_other_ratio_of_selective_kernels_is_told():
    theirs = ShapesOnly(50, 1, sk=0.25, head=())
    assert told_from(theirs).config.sk_ratio == 0.25


@pytest.mark.slow
def test_squeeze_and_excitation_is_told():
    model = build_simclr_model(ModelConfig(resnet_depth=50, width_multiplier=0.25, se_ratio=0.25), None)
    shapes = {name: tuple(variable.shape) for name, variable in released_names(model).items()}
    file = ReleasedFile("--checkpoint=file", shapes, None, None, None, {})
    assert infer_network(file, ModelConfig()).config == model.config


@pytest.mark.parametrize(
    ("step", "head_layer", "stated", "layer", "reason"),
    [
        (751, None, {}, 1, "751 steps are those of the weights finetuned on 1% of the labels"),
        (37_535, None, {"ft_proj_selector": 0}, 0, "37535 steps are those"),
        (999, 2, {}, 2, "the graph of the SavedModel says so"),
        (999, None, {"ft_proj_selector": 1}, 1, "--ft_proj_selector says so"),
    ],
)
def test_layer_of_the_supervised_head_is_told(step, head_layer, stated, layer, reason):
    theirs = ShapesOnly(18, head=(8, 8, 4), classes=5)
    network = told_from(theirs, step, ModelConfig(**stated), tuple(stated), head_layer)
    assert network.config.ft_proj_selector == layer
    assert reason in network.describe()


def test_layer_of_the_supervised_head_that_is_open_is_asked_for():
    theirs = ShapesOnly(18, head=(8, 8, 4), classes=5)
    with pytest.raises(UserError, match=r"^--ft_proj_selector: not given, but file leaves open which layer"):
        told_from(theirs, 999)
    with pytest.raises(UserError, match=r"^--ft_proj_selector=2: file has its supervised head on layer 1, as 751"):
        told_from(theirs, 751, ModelConfig(ft_proj_selector=2), ("ft_proj_selector",))


@pytest.mark.parametrize(("stated", "layer"), [(-1, 2), (2, 2), (1, 1)])
def test_layer_of_the_supervised_head_is_counted_in_the_head_of_the_file(stated, layer):
    theirs = ShapesOnly(18, head=(8, 4), classes=5, selector=1)
    theirs.variables["head_contrastive/nl_1/dense/kernel"] = (64, 64)  # As wide as the others.
    asked = ModelConfig(ft_proj_selector=stated)
    assert told_from(theirs, 999, asked, ("ft_proj_selector",)).config.ft_proj_selector == layer


def test_layer_of_the_supervised_head_that_the_file_does_not_have_is_refused():
    theirs = ShapesOnly(18, head=(8, 4), classes=5)
    with pytest.raises(UserError) as error:
        told_from(theirs, 999, ModelConfig(ft_proj_selector=3), ("ft_proj_selector",))
    assert str(error.value) == (
        "--ft_proj_selector=3: file has 2 layer(s) of projection head; use 0 (the encoder's output) to 2, or -1 for "
        "the last."
    )


def test_graph_of_a_saved_model_tells_the_layer_of_the_supervised_head(tmp_path):
    """It is read, and never run."""

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernels = [tf.Variable(tf.ones([3, 3])) for _ in range(2)]

        @tf.function(input_signature=[tf.TensorSpec([None, 3])])
        def __call__(self, x):
            x = tf.nn.relu(tf.matmul(x, self.kernels[0]))
            with tf.name_scope("head_supervised/linear_layer/dense_3/"):
                return tf.matmul(x, self.kernels[1], name="MatMul")

    tf.saved_model.save(Module(), str(tmp_path))
    assert _head_layer_of_logits(str(tmp_path)) == 1


# ---- What is done with it


@pytest.mark.slow
@pytest.mark.exhaustive
def test_imported_network_is_evaluated_finetuned_distilled_from_and_exported(tmp_path):
    """By the program, on a folder of a few images."""
    for name in ("a", "b", "c", "d", "e"):
        write_images(tmp_path / "photos" / name, 4, size=40)
    theirs = network(**FINETUNED)
    path = write_tf1(tmp_path / "r50_1x_sk0" / "model.ckpt-751", with_training_state(theirs.variables, 751))
    run = tmp_path / "imported"
    imported = run_program("--mode=import", f"--checkpoint={path}", f"--model_dir={run}", "--image_size=40")
    assert imported.returncode == 0, imported.stderr
    assert "ResNet-18, width 0.125, 3 layer(s) of projection head to 4, 5 classes (finetune)" in imported.stdout
    assert (run / "saved_model" / "751" / "saved_model.pb").exists()
    data = [f"--dataset=folder:{tmp_path / 'photos'}", "--eval_split=train", "--eval_batch_size=4"]
    evaluated = run_program("--mode=eval", f"--model_dir={run}", *data)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "Result: finetune top-1" in evaluated.stdout and "on 20 held-out images; step 751" in evaluated.stdout
    network_flags = ["--resnet_depth=18", "--width_multiplier=0.125", "--proj_out_dim=4", "--image_size=40"]
    short = [*data, *network_flags, "--train_batch_size=4", "--train_steps=1", "--ft_proj_selector=1"]
    for mode, start in (("finetune", f"--checkpoint={run}"), ("distill", f"--teacher={run}")):
        done = run_program(f"--mode={mode}", start, f"--model_dir={tmp_path / mode}", *short)
        assert done.returncode == 0, done.stderr
        assert "Result: " in done.stdout
