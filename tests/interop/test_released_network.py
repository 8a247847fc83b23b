"""The network inferred from the names and shapes in a file."""

import functools

import pytest

from tests.interop.authors_files import ShapesOnly
from tests.support.marks import usual
from tf_simclr.config import ModelConfig, UserError
from tf_simclr.interop.released import expected_shapes
from tf_simclr.interop.released_files import ReleasedFile
from tf_simclr.interop.released_network import ReleasedNetwork, infer_network
from tf_simclr.runs.network_differences import list_differences

SMALL = ShapesOnly(18, 0.125, classes=5, selector=1).variables


def infer(shapes, step=751, *, head_layer=None, **stated):
    return infer_network(ReleasedFile("file", shapes, step, head_layer), ModelConfig(**stated), tuple(stated))


@functools.cache
def shapes_here(config, num_classes=None):
    return expected_shapes(ReleasedNetwork(config, num_classes, "", ""))


PAPERS = [(depth, width, sk) for depth in (50, 101, 152) for width in (1, 2) for sk in (0.0, 0.0625)]


@pytest.mark.parametrize(("depth", "width", "sk"), [*PAPERS, (152, 3, 0.0625), (18, 1, 0.0), (34, 2, 0.0625)])
def test_network_is_inferred_from_names_and_shapes(depth, width, sk):
    network = infer(ShapesOnly(depth, width, sk=sk, head=(8, 8, 128), classes=1000, selector=1).variables)
    assert network.config == ModelConfig(resnet_depth=depth, width_multiplier=width, sk_ratio=sk, ft_proj_selector=1)
    assert (network.num_classes, network.train_mode) == (1000, "finetune")


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "width", "sk"), usual((50, 1, 0.0625), also=[(101, 2, 0.0625)]))
def test_names_and_shapes_equal_the_authors(depth, width, sk):
    theirs = ShapesOnly(depth, width, sk=sk, head=(8, 8, 128), classes=1000, selector=1).variables
    assert shapes_here(infer(theirs).config, 1000) == theirs


def test_number_of_layers_equals_the_authors():
    """R50 has 53 convolutions and batch norms, R50 SK 87 and 71."""
    for sk, convolutions, norms in ((0.0, 53, 53), (0.0625, 87, 71)):
        names = ShapesOnly(50, sk=sk, head=()).variables
        assert sum("/conv2d" in name for name in names) == convolutions
        assert sum(name.endswith("/gamma") for name in names) == norms


def test_other_ratios_are_inferred():
    assert infer(ShapesOnly(50, 1, sk=0.25, head=()).variables).config.sk_ratio == 0.25
    config = ModelConfig(resnet_depth=18, width_multiplier=0.25, se_ratio=0.25)
    assert infer(shapes_here(config)).config == config


@pytest.mark.parametrize(
    ("step", "head_layer", "stated", "layer", "train_mode", "reason"),
    [
        (250_228, None, {}, 0, "pretrain", "250228 steps are those of the weights pretrained"),
        (751, None, {}, 1, "finetune", "751 steps are those of the weights finetuned on 1% of the labels"),
        (37_535, None, {"ft_proj_selector": 0}, 0, "finetune", "37535 steps are those"),
        (999, 2, {}, 2, "finetune", "the graph of the SavedModel says so"),
        (999, None, {"ft_proj_selector": 1}, 1, "finetune", "--ft_proj_selector says so"),
    ],
)
def test_layer_of_the_supervised_head_is_inferred(step, head_layer, stated, layer, train_mode, reason):
    network = infer(SMALL, step, head_layer=head_layer, **stated)
    assert (network.config.ft_proj_selector, network.train_mode) == (layer, train_mode)
    assert reason in network.describe()


@pytest.mark.parametrize(("stated", "layer"), [(-1, 2), (2, 2), (1, 1)])
def test_layer_of_the_supervised_head_is_counted_in_the_head_of_the_file(stated, layer):
    shapes = ShapesOnly(18, head=(8, 4), classes=5, selector=1).variables
    shapes["head_contrastive/nl_1/dense/kernel"] = (64, 64)  # As wide as the others.
    assert infer(shapes, 999, ft_proj_selector=stated).config.ft_proj_selector == layer


def test_network_of_the_first_version_has_no_projection_head():
    network = infer(ShapesOnly(18, head=(), classes=5).variables, 1000)
    assert (network.config.proj_head_mode, network.config.ft_proj_selector) == ("none", 0)
    assert network.describe() == (
        "ResNet-18 0.125x 224 px, 5 classes (finetune); its supervised head sits on the encoder's output: no other "
        "layer is as wide"
    )


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"resnet_depth": 50}, "holds a network with resnet_depth=18; leave it out."),
        ({"num_proj_layers": 2}, "holds a network with num_proj_layers=3; leave it out."),
        ({"image_size": 32}, "has the stem for images above 32 px; use more than 32."),
        ({"ft_proj_selector": 2}, "has its supervised head on layer 1, because 751 steps are those of the weights "),
        ({"ft_proj_selector": 4, "num_proj_layers": 4}, "holds a network with num_proj_layers=3; leave it out."),
    ],
)
def test_flag_that_contradicts_the_file_is_refused(stated, message):
    with pytest.raises(UserError, match=rf"^--\w+=\d+: file {message}"):
        infer(SMALL, **stated)


def test_head_layer_that_the_file_lacks_is_refused():
    with pytest.raises(UserError) as error:
        infer(ShapesOnly(18, head=(8, 4), classes=5).variables, ft_proj_selector=3)
    assert str(error.value) == (
        "--ft_proj_selector=3: file has 2 layer(s) of projection head; use 0 (the encoder's output) to 2, or -1 for "
        "the last."
    )


def test_head_layer_that_nothing_tells_is_asked_for():
    with pytest.raises(UserError, match=r"^--ft_proj_selector: not given, but file leaves open which layer"):
        infer(SMALL, 999)


def test_flag_that_agrees_with_the_file_is_taken():
    assert infer(SMALL, resnet_depth=18, width_multiplier=0.125, image_size=96).config.image_size == 96


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("base_model/conv2d_21/kernel", (3, 3, 8, 8), "1 extra (base_model/conv2d_21/kernel)"),
        ("base_model/batch_normalization_3/gamma", None, "1 missing (base_model/batch_normalization_3/gamma)"),
        ("base_model/conv2d_4/kernel", (3, 3, 8, 3), "(base_model/conv2d_4/kernel [3, 3, 8, 3] here [3, 3, 8, 8])"),
        ("base_model/conv2d_7/kernel", (16, 8, 3, 3), "[16, 8, 3, 3] here [3, 3, 8, 16])"),
        ("head_contrastive/nl_1000/dense/kernel", (8, 4), "1 extra (head_contrastive/nl_1000/dense/kernel)"),
        # A network as large as this one claims would need more memory than there is.
        ("base_model/conv2d_2/kernel", (1, 1, 1, 300_000), "base_model/batch_normalization/beta [8] here [2048]"),
        *(("base_model/conv2d_1/kernel", shape, "base_model/conv2d_1/kernel") for shape in ((3, 3, 8, 0), (0,) * 4)),
        *(("base_model/conv2d/kernel", (2,) * rank, "base_model/conv2d/kernel [") for rank in (0, 1)),
        ("base_model/conv2d_3/bias", (), "of other shape"),  # As of a network with squeeze and excitation.
        ("head_contrastive/nl_2/dense/kernel", (), "head_contrastive/nl_2/dense/kernel"),
        *(("head_supervised/linear_layer/dense/kernel", (2,) * rank, "_layer/dense/kernel") for rank in (0, 1, 3)),
    ],
)
def test_variables_that_do_not_match_are_listed(name, shape, expected):
    shapes = {key: value for key, value in {**SMALL, name: shape}.items() if value is not None}
    network = infer(shapes, ft_proj_selector=1)
    assert expected in list_differences(shapes, shapes_here(network.config, network.num_classes))


def test_file_with_few_convolutions_is_refused():
    with pytest.raises(UserError, match=r"^--checkpoint=file: too few convolutions \(1\)"):
        infer({"base_model/conv2d/kernel": (7, 7, 3, 8), "base_model/conv2d_1/kernel": ()})
