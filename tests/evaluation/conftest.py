"""A network whose features are the pixels, in place of a trained one."""

import pytest
import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.evaluation import embed, maps, probe
from tf_simclr.evaluation.features import Network

SIZE = 8


@pytest.fixture
def pixel_network():
    def call(images):
        return {"default": tf.reshape(images, [-1, 3 * SIZE**2]), "map": images}

    return Network("run/ckpt-1", call, {"default": (192,), "map": (SIZE, SIZE, 3)}, SIZE, "x")


@pytest.fixture
def seen(pixel_network, monkeypatch):
    """The images that went through the network, which all modes use."""
    rows = []

    def count_rows(batch):
        rows.extend(image.tobytes() for image in batch)
        return batch

    def call(images):
        counted = tf.ensure_shape(tf.numpy_function(count_rows, [images], tf.float32), images.shape)
        return pixel_network.call(counted)

    for module in (embed, maps, probe):
        monkeypatch.setattr(module, "load_inference_network", lambda path: pixel_network._replace(call=call))
    return rows


def refusal(function, *arguments, **settings):
    """The one line with which a call is refused."""
    with pytest.raises(UserError) as error:
        function(*arguments, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)
