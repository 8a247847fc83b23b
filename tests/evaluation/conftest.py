"""A network whose features are the pixels, instead of a trained one."""

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
    """The batches of `eval_dataset` for encoded images, without a compiled pipeline."""
    size, examples = plan.per_replica_batch_size, list(source.eval_examples(plan))
    decode = tf.function(lambda row: source.decode(row, 0), autograph=False)
    for start in range(0, len(examples), size):
        rows = examples[start : start + size]
        images, labels, mask = [], [], []
        for row in rows:
            is_example = int(row["position"]) < source.num_examples
            try:
                image, label = decode(row)
            except tf.errors.InvalidArgumentError:  # Unreadable.
                image, label, is_example = tf.zeros([1, 1, 3], tf.uint8), 0, False
            images.append(view.crop_image(image))
            labels.append(int(label))
            mask.append(float(is_example))
        batch = {"images": tf.stack(images), "mask": tf.constant(mask), "position": [row["position"] for row in rows]}
        if source.num_classes is not None:
            batch["labels"] = labels
        yield {name: tf.convert_to_tensor(value) for name, value in batch.items()}


def refusal(function, *arguments, **settings):
    """The one line with which a call is refused."""
    with pytest.raises(UserError) as error:
        function(*arguments, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)
