"""Small data sets on disk. Image number i is filled with the grey value i * 5, so that views tell it."""

import socket

import numpy as np
import pytest
import tensorflow as tf

GREY_STEP = 5


def grey_image(number, height=12, width=16, channels=3):
    return np.full((height, width, channels), number * GREY_STEP, np.uint8)


def numbers_of(images):
    """The number of the image in each view: the inverse of `grey_image`."""
    return np.rint(np.asarray(images)[:, 0, 0, 0] * 255 / GREY_STEP).astype(int)


def write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = tf.io.encode_png if path.suffix == ".png" else tf.io.encode_jpeg
    path.write_bytes(encode(image).numpy())
    return path


def classes_of_number(number):
    """Several classes of three, or none."""
    return [kind for kind in range(3) if number >> kind & 1]


@pytest.fixture
def class_folder(tmp_path):
    """Two classes of 6 images each, of several sizes."""
    for number in range(12):
        name = "cat" if number < 6 else "dog"
        write_image(tmp_path / "pets" / name / f"{number:02}.png", grey_image(number, 10 + number, 20))
    return tmp_path / "pets"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def prepare_tfds(data_dir, name, features, splits, num_shards=1, variant=None):
    """Writes a data set, or a variant of one, in the format of TFDS, by a builder that exists only here."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    body = {
        "VERSION": tfds.core.Version("1.0.0"),
        "_info": info,
        "_split_generators": lambda self, downloads: {key: enumerate(value) for key, value in splits.items()},
        "_generate_examples": lambda self: (),
    }
    if variant is not None:
        body["BUILDER_CONFIGS"] = [tfds.core.BuilderConfig(name=variant, version=body["VERSION"])]
    builder = type(name, (tfds.core.GeneratorBasedBuilder,), body, skip_registration=True)(data_dir=data_dir)
    config = tfds.download.DownloadConfig(num_shards=num_shards, try_download_gcs=False)
    builder.download_and_prepare(download_config=config)


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
    """Prepared data sets: fixed sizes, JPEGs of several sizes in shards, unlabelled, damaged, no images."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    files = root / "files"
    label = tfds.features.ClassLabel(names=["even", "odd"])
    fixed, free = tfds.features.Image(shape=(32, 32, 3)), tfds.features.Image()
    jpegs = [write_image(files / f"{number}.jpg", grey_image(number, 10 + number, 14)) for number in range(40)]

    def example(number, image):
        return {"image": image, "label": number % 2}

    squares = [example(number, grey_image(number, 32, 32)) for number in range(30)]
    prepare_tfds(root, "TinyFixed", {"image": fixed, "label": label}, {"train": squares[:20], "test": squares[20:]})
    labelled = [example(number, str(path)) for number, path in enumerate(jpegs)]
    prepare_tfds(root, "TinyJpegs", {"image": free, "label": label}, {"train": labelled}, num_shards=3)
    pictures = [{"picture": square["image"]} for square in squares]
    prepare_tfds(root, "TinyUnlabelled", {"picture": fixed}, {"train": pictures})
    held_back = [squares[number] | {"label": -1} for number in (3, 5)]
    prepare_tfds(
        root,
        "TinyHeldBack",
        {"image": fixed, "label": label},
        {"train": squares[:4], "test": held_back, "unlabelled": held_back},
    )
    broken = files / "broken.jpg"
    broken.write_bytes(jpegs[0].read_bytes()[:300])
    damaged = [*labelled[:6], example(1, str(broken)), *labelled[7:20]]
    prepare_tfds(root, "TinyDamaged", {"image": free, "label": label}, {"train": damaged}, num_shards=2)
    damaged = [example(1, str(broken)), *squares]
    prepare_tfds(root, "TinyDamagedFixed", {"image": fixed, "label": label}, {"train": damaged})
    sets = [{"image": one["image"], "labels": classes_of_number(number)} for number, one in enumerate(labelled)]
    kinds = tfds.features.Sequence(tfds.features.ClassLabel(num_classes=3))
    prepare_tfds(root, "TinySets", {"image": free, "labels": kinds}, {"train": sets}, num_shards=3)
    pairs = [
        {"left": one["image"], "right": two["image"], "colour": number % 2, "shape": number // 2 % 2}
        for number, (one, two) in enumerate(zip(squares[:20], squares[10:], strict=True))
    ]
    features = {"left": fixed, "right": fixed, "colour": label, "shape": label}
    prepare_tfds(root, "TinyPairs", features, {"train": pairs})
    prepare_tfds(root, "TinyText", {"text": tfds.features.Text()}, {"train": [{"text": "no image"}]})
    return root
