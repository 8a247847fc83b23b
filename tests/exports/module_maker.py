"""Exports a small network with random weights, and what it gives for some images, for `module_user.py`.

python -m tests.exports.module_maker PATH
"""

import sys

import numpy as np
import pytest

from exports.saved_model import save_model
from tests.support.networks import random_images, randomize, tiny_config
from tf_simclr.models import build_simclr_model, resnet


def main(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.RESNET_BLOCKS, 50, (1, 1, 1, 1))
        model = randomize(build_simclr_model(tiny_config(precision="float32", sk_ratio=0.0625, resnet_depth=50), 10))
        save_model(model, path, {"settings": {"weight_decay": 1e-4}})
    images = random_images(4, 16, 16, dtype="float32")
    np.savez(f"{path}.npz", images=images, **{k: v.numpy() for k, v in model(images, training=False).items()})


if __name__ == "__main__":
    main(sys.argv[1])
