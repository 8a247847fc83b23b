"""A network whose features are the pixels, in place of a trained one."""

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.evaluation.features import Network

SIZE = 8


@pytest.fixture
def pixel_network():
    def call(images):
        return {"default": tf.reshape(images, [-1, 3 * SIZE**2]), "map": images}

    return Network("run/ckpt-1", call, {"default": (192,), "map": (SIZE, SIZE, 3)}, SIZE, "x")


def eager_batches(source, view, *, plan):
    """The batches of `eval_dataset` for a folder of PNG files, without a compiled pipeline."""
    size, count = plan.per_replica_batch_size, source.num_examples
    labels = np.zeros(count) if source.num_classes is None else source.read_labels()
    for start in range(0, count, size):
        images, mask = np.zeros([size, SIZE, SIZE, 3], np.float32), np.zeros(size, np.float32)
        for row, path in enumerate(source.files[start : start + size]):
            try:
                images[row] = view(tf.io.decode_png(tf.io.read_file(path))[tf.newaxis])[0]
                mask[row] = 1
            except tf.errors.InvalidArgumentError:
                pass  # Unreadable.
        batch = {"images": images, "mask": mask, "position": np.arange(start, start + size)}
        if source.num_classes is not None:
            batch["labels"] = np.pad(labels[start : start + size], (0, max(start + size - count, 0))).astype(np.int32)
        yield {name: tf.constant(value) for name, value in batch.items()}


def refusal(function, *arguments, **settings):
    """The one line with which a call is refused."""
    with pytest.raises(UserError) as error:
        function(*arguments, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)
