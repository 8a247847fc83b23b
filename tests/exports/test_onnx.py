"""The ONNX file, run by ONNX Runtime if it is installed (requirements-optional.txt)."""

import json
import sys

import pytest

from exports.onnx import OPSET, check_onnx_package, write_onnx
from tests.support.networks import assert_close, random_images, randomize, tiny_config
from tf_simclr.config import UserError
from tf_simclr.models import build_simclr_model, resnet

pytestmark = pytest.mark.stack

NETWORKS = {"SK, large stem": {"resnet_depth": 50, "sk_ratio": 0.0625, "image_size": 40}, "SE": {"se_ratio": 0.25}}


@pytest.fixture(autouse=True)
def _one_block_a_group(monkeypatch):
    monkeypatch.setitem(resnet.RESNET_BLOCKS, 50, (1, 1, 1, 1))


def make_model(**changes):
    return randomize(build_simclr_model(tiny_config(precision="float32", **changes), 7))


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Of the converter's own code.
def test_onnx_gives_the_outputs_of_the_network_for_any_number_and_size_of_images(changes, tmp_path):
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = make_model(**changes)
    write_onnx(model, str(tmp_path), {"image_size": 40})
    assert json.loads((tmp_path / "metadata.json").read_text())["image_size"] == 40
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.shape) == ("images", ["batch", "height", "width", 3])
    names = [output.name for output in session.get_outputs()]
    assert all(output.shape[0] == "batch" for output in session.get_outputs())
    for shape in ((1, 40, 40), (3, 40, 40), (2, 33, 58)):
        images = random_images(*shape, dtype="float32")
        outputs = model(images, training=False)
        expected = {name: value.numpy() for name, value in outputs.items() if name != "initial_conv"}
        received = session.run(names, {"images": images})
        assert_close(dict(zip(names, received, strict=True)), expected, 1e-5)


def test_onnx_operators_are_of_the_stated_version(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("tf2onnx")
    write_onnx(make_model(), str(tmp_path), {})
    versions = {opset.domain: opset.version for opset in onnx.load(tmp_path / "model.onnx").opset_import}
    assert versions[""] == OPSET


def test_onnx_without_its_package_is_one_line_with_the_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(UserError, match=r"^--export_formats=onnx: needs the package tf2onnx") as error:
        check_onnx_package()
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("pip install '.[onnx]'")
