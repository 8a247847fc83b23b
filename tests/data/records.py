"""TFRecord files as users have them, sound and damaged."""

import hashlib
import json

import tensorflow as tf

from tests.data.conftest import grey_image

FRAME_BYTES, HEADER_BYTES = 16, 12


def png(number, size=12):
    return tf.io.encode_png(grey_image(number, size, 14)).numpy()


def example(image, label=None, *, image_key="image", label_key="label", **others):
    """A serialised `tf.train.Example`; further features are bytes."""
    features = {image_key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))}
    if label is not None:
        features[label_key] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    for name, value in others.items():
        features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write(path, records, compression=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression or None) as writer:
        for record in records:
            writer.write(record)
    return path


def write_greys(folder, numbers, *, num_files=3, split="train", labels=True, compression=""):
    """Files whose record of the number n is an image of this number, with the label n % 2."""
    numbers = list(numbers)
    for index in range(num_files):
        records = [example(png(n, 10 + n % 5), n % 2 if labels else None) for n in numbers[index::num_files]]
        write(folder / f"{split}-{index:05}-of-{num_files:05}.tfrecord", records, compression)
    return folder


def places_of(content):
    """The first byte of each record of an uncompressed file."""
    places, place = [], 0
    while place < len(content):
        places.append(place)
        place += FRAME_BYTES + int.from_bytes(content[place : place + 8], "little")
    return places


def damage(path, record, *, at=HEADER_BYTES):
    """Changes one byte of a record: of its data, or of its header if `at` is below HEADER_BYTES."""
    content = bytearray(path.read_bytes())
    content[places_of(content)[record] + at] ^= 0xFF
    path.write_bytes(content)


def write_manifest(folder, class_names, **splits):
    """As `--mode=prepare` writes it."""

    def entry(path):
        content = path.read_bytes()
        count = sum(1 for _ in tf.data.TFRecordDataset(str(path)))
        digest = hashlib.sha256(content).hexdigest()
        return {"name": path.name, "num_examples": count, "bytes": len(content), "sha256": digest}

    files = {split: [entry(path) for path in paths] for split, paths in splits.items()}
    content = {
        "format": "tf_simclr-prepared-1",
        "class_names": class_names,
        "splits": {
            split: {"num_examples": sum(file["num_examples"] for file in named), "files": named}
            for split, named in files.items()
        },
    }
    (folder / "manifest.json").write_text(json.dumps(content))
