"""Record files of a folder: conversion of each kind of image, resuming after an interruption, bad input."""

import errno
import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from flags.convert import parse_command_line
from tests.support.marks import usual
from tests.support.runs import REPOSITORY, write_images
from tf_simclr.config import DataConfig, PrepareConfig, UserError
from tf_simclr.data import load_source
from tf_simclr.data.manifest import new_manifest
from tf_simclr.preparation import convert as image_files
from tf_simclr.preparation import prepare as module
from tf_simclr.preparation import record_writer as prepared_files
from tf_simclr.preparation.convert import Conversion, convert_files, convert_image
from tf_simclr.preparation.prepare import prepare, training_flags
from tf_simclr.preparation.record_writer import PreparedFiles

AS_IS = Conversion(short_side=0, quality=95, max_pixels=10**6)
ORIENTATION = 0x0112


def gradient(height=12, width=16):
    """RGB, smooth enough for JPEG to keep it, and different in all orientations."""
    y, x = np.mgrid[:height, :width]
    channels = (40 + 160 * x / width, 40 + 160 * y / height, 40 + 80 * (x / width + y / height))
    return np.stack(channels, axis=-1).astype(np.uint8)


PIXELS = gradient()
GREY = PIXELS[..., 0]
GREYS = np.repeat(GREY[..., np.newaxis], 3, axis=-1)


def encode(image, extension, **options):
    file = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(file, extension, **options)
    return file.getvalue()


def oriented(number):
    exif = Image.Exif()
    exif[ORIENTATION] = number
    return exif


def shown(encoded):
    return tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()


def size_of(encoded):
    return Image.open(io.BytesIO(encoded)).size


def convert(encoded, short_side=0):
    return convert_image(encoded, AS_IS._replace(short_side=short_side))


TURNS = {
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: np.rot90,
}
PLAIN = {
    "JPEG": encode(PIXELS, "JPEG"),
    "grey JPEG": encode(GREY, "JPEG"),
    "progressive JPEG": encode(PIXELS, "JPEG", progressive=True),
    "upright JPEG": encode(PIXELS, "JPEG", exif=oriented(1)),
    "JPEG with a second picture": encode(PIXELS, "MPO", save_all=True, append_images=[Image.fromarray(GREYS)]),
    "PNG": encode(PIXELS, "PNG"),
    "grey PNG": encode(GREY, "PNG"),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_image_is_copied_byte_for_byte(kind):
    for short_side in (0, 12):
        assert convert(PLAIN[kind], short_side) == PLAIN[kind]


PALETTE = Image.fromarray(PIXELS // 64 * 64).quantize(16)
RGBA = np.concatenate([PIXELS, GREY[..., np.newaxis]], axis=-1)
SIXTEEN = GREY.astype(np.uint16) * 256 + 99
LOSSLESS = {
    "palette PNG": (encode(PALETTE, "PNG"), np.array(PALETTE.convert("RGB"))),
    "PNG with alpha": (encode(RGBA, "PNG"), PIXELS),
    "grey PNG with alpha": (encode(np.stack([GREY, GREY], -1), "PNG"), GREYS),
    "PNG with a transparent colour": (encode(PIXELS, "PNG", transparency=(1, 2, 3)), PIXELS),
    "black and white PNG": (encode(Image.fromarray(GREY > 99), "PNG"), 255 * (GREYS > 99)),
    "16-bit grey PNG": (encode(SIXTEEN, "PNG"), GREYS),
    "16-bit RGB PNG": (tf.io.encode_png(PIXELS.astype(np.uint16) * 256 + 200).numpy(), PIXELS),
    "16-bit TIFF": (encode(SIXTEEN, "TIFF"), GREYS),
    "TIFF": (encode(PIXELS, "TIFF"), PIXELS),
    "turned TIFF": (encode(PIXELS, "TIFF", exif=oriented(6)), TURNS[6](PIXELS)),
    "BMP": (encode(PIXELS, "BMP"), PIXELS),
    "PPM": (encode(PIXELS, "PPM"), PIXELS),
    "WebP without loss": (encode(PIXELS, "WEBP", lossless=True), PIXELS),
    "animated GIF": (
        encode(PALETTE, "GIF", save_all=True, append_images=[Image.fromarray(GREY)]),
        np.array(PALETTE.convert("RGB")),
    ),
} | {f"orientation {n}": (encode(PIXELS, "PNG", exif=oriented(n)), turn(PIXELS)) for n, turn in TURNS.items()}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_other_image_without_loss_becomes_a_plain_png(kind):
    encoded, expected = LOSSLESS[kind]
    converted = convert(encoded)
    np.testing.assert_array_equal(shown(converted), expected)
    assert converted.startswith(b"\x89PNG")
    assert convert(converted) == converted  # It is plain now.


LOSSY = {
    "CMYK JPEG": (encode(Image.fromarray(PIXELS).convert("CMYK"), "JPEG", quality=95), PIXELS),
    "turned JPEG": (encode(PIXELS, "JPEG", quality=95, exif=oriented(6)), np.rot90(PIXELS, -1)),
    "WebP": (encode(PIXELS, "WEBP", quality=95), PIXELS),
    "WebP with notes": (encode(PIXELS, "WEBP", quality=95, exif=oriented(1)), PIXELS),
}


@pytest.mark.parametrize("kind", LOSSY)
def test_other_image_with_loss_becomes_a_plain_jpeg(kind):
    encoded, expected = LOSSY[kind]
    converted = convert(encoded)
    assert converted.startswith(b"\xff\xd8\xff")
    assert np.abs(shown(converted).astype(int) - expected).mean() < 3
    assert convert(converted) == converted


@pytest.mark.parametrize("extension", ["JPEG", "PNG"])
def test_large_image_is_resized_by_its_shorter_side(extension):
    """The value of a pixel in a gradient follows from its place. JPEG is decoded at half the size first."""
    converted = convert(encode(gradient(160, 240), extension, quality=95), short_side=40)
    assert size_of(converted) == (60, 40)
    y, x = np.mgrid[:40, :60]
    expected = np.stack([40 + 160 * (x + 0.5) / 60, 40 + 160 * (y + 0.5) / 40], axis=-1)
    inside = (slice(4, -4), slice(4, -4))
    assert np.abs(shown(converted)[inside][..., :2] - expected[inside]).max() < 5


@pytest.mark.parametrize(
    ("width", "height", "exif", "expected"),
    [
        (31, 20, None, (31, 20)),
        (31, 21, None, (30, 20)),
        (21, 63, None, (20, 60)),
        (40, 60, oriented(6), (30, 20)),
        (1, 500, None, (1, 500)),
        (10_000, 40, None, (5_000, 20)),
    ],
)
def test_image_is_reduced_to_the_asked_size_and_never_enlarged(width, height, exif, expected):
    options = {} if exif is None else {"exif": exif}
    assert size_of(convert(encode(gradient(height, width), "JPEG", **options), short_side=20)) == expected


def problem_of(tmp_path, content, max_pixels=10**6):
    path = tmp_path / "image"
    if content is not None:
        path.write_bytes(content)
    ((image, problem),) = convert_files([str(path)], AS_IS._replace(max_pixels=max_pixels))
    assert image == b""
    return problem


def test_unreadable_image_has_a_problem(tmp_path):
    assert problem_of(tmp_path, None) == "No such file or directory"
    for content in (b"", b"text", b"GIF8", b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        assert problem_of(tmp_path, content) == "is no JPEG, PNG, BMP, GIF, WebP, TIFF or PPM image"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for extension, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("TIFF", {})):
        whole = encode(noise, extension, **options)
        assert problem_of(tmp_path, whole[: len(whole) * 3 // 4]), extension
    assert "64x64 pixels, over the limit of 4000" in problem_of(tmp_path, encode(noise, "PNG"), max_pixels=4000)
    assert "floating-point" in problem_of(tmp_path, encode(GREY.astype(np.float32), "TIFF"))
    assert "16 bits" in problem_of(tmp_path, encode(GREY.astype(np.int32) * 2**16, "TIFF"))


def test_working_processes_load_no_tensorflow():
    program = "import sys, tf_simclr.preparation.convert; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False).returncode == 0


# ---- Folders

NAMES = [f"{name}/{number:03}.png" for name in ("cat", "dog") for number in range(10)]


@pytest.fixture
def photos(tmp_path):
    """A folder of twenty images in two classes."""
    for seed, name in enumerate(("cat", "dog")):
        write_images(tmp_path / "photos" / name, 10, seed=seed)
    return tmp_path / "photos"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def config(folder, output, **settings):
    settings = {"prepare_shards": 3, "prepare_workers": 1} | settings
    bad = settings.pop("max_bad_image_fraction", 0.5)
    data = DataConfig(dataset=f"folder:{folder}", max_bad_image_fraction=bad)
    return PrepareConfig(data=data, output=str(output), **settings)


def refusal(*arguments, **settings):
    with pytest.raises(UserError) as error:
        prepare(config(*arguments, **settings))
    assert "\n" not in str(error.value)
    return str(error.value)


def read(path):
    """Returns (name, label or None, image) of each record."""
    rows = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        features = tf.train.Example.FromString(record).features.feature
        label = features["label"].int64_list.value[0] if "label" in features else None
        rows.append((features["file_name"].bytes_list.value[0].decode(), label, features["image"].bytes_list.value[0]))
    return rows


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_records_hold_all_images_with_labels_mixed_over_the_files(out, photos, tmp_path):
    prepare(config(photos, out))
    names = [f"train-{number:05}-of-00003.tfrecord" for number in range(3)]
    assert sorted(files(out)) == ["manifest.json", *names]
    parts = [read(out / name) for name in names]
    rows = [row for part in parts for row in part]
    assert sorted(name for name, _, _ in rows) == NAMES != [name for name, _, _ in rows]
    for name, label, image in rows:
        assert label == name.startswith("dog")
        assert image == (photos / name).read_bytes()
    assert all({label for _, label, _ in part} == {0, 1} for part in parts)
    manifest = manifest_of(out)
    assert (manifest["format"], manifest["class_names"]) == ("tf_simclr-prepared-1", ["cat", "dog"])
    split = manifest["splits"]["train"]
    assert (split["num_examples"], split["num_unreadable"]) == (20, 0)
    for entry, name, part in zip(split["files"], names, parts, strict=True):
        content = (out / name).read_bytes()
        assert (entry["name"], entry["num_examples"], entry["bytes"]) == (name, len(part), len(content))
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert manifest["settings"]["prepare_shards"] == 3
    assert manifest["settings"]["dataset"] == f"folder:{photos.name}"
    assert str(tmp_path) not in json.dumps(manifest)


def test_order_follows_from_the_seed(photos, tmp_path):
    orders = []
    for number, seed in enumerate((0, 0, 1)):
        prepare(config(photos, tmp_path / str(number), prepare_shards=1, seed=seed))
        rows = read(tmp_path / str(number) / "train-00000-of-00001.tfrecord")
        orders.append([name for name, _, _ in rows])
    assert orders[0] == orders[1] != orders[2]


@pytest.fixture
def splits(photos, tmp_path):
    """The folder as the split `train` of a new one."""
    (tmp_path / "splits").mkdir()
    photos.rename(tmp_path / "splits" / "train")
    return tmp_path / "splits"


def test_all_splits_are_prepared_and_a_flat_one_has_no_labels(out, splits):
    write_images(splits / "test", 2)
    prepare(config(splits, out))
    manifest = manifest_of(out)
    assert {name: split["num_examples"] for name, split in manifest["splits"].items()} == {"train": 20, "test": 2}
    assert manifest["class_names"] == ["cat", "dog"]
    rows = [row[:2] for n in range(2) for row in read(out / f"test-0000{n}-of-00002.tfrecord")]
    assert sorted(rows) == [("test/000.png", None), ("test/001.png", None)]


def test_flat_folder_has_no_class_names_and_images_are_resized(out, tmp_path):
    folder = write_images(tmp_path / "flat", 3, size=30)
    prepare(config(folder, out, prepare_shards=1, prepare_short_side=15))
    assert manifest_of(out)["class_names"] is None
    rows = read(out / "train-00000-of-00001.tfrecord")
    assert [size_of(image) for _, _, image in rows] == [(16, 15)] * 3


def test_number_of_files_follows_from_their_size(out, tmp_path):
    folder = write_images(tmp_path / "flat", 16, size=250)
    prepare(config(folder, out, prepare_shards=0, prepare_shard_megabytes=1))
    sizes = [entry["bytes"] for entry in manifest_of(out)["splits"]["train"]["files"]]
    assert len(sizes) == 3  # Of 16 x 188 kB of noise.
    assert all(0.8e6 < size < 1.2e6 for size in sizes)


def test_two_processes_write_the_same_bytes_as_one(photos, tmp_path):
    for number in (1, 2):
        prepare(config(photos, tmp_path / str(number), prepare_workers=number, prepare_short_side=8))
    assert files(tmp_path / "1") == files(tmp_path / "2")


# ---- Interruptions


class Stopped:
    """Makes `count` records, then raises."""

    def __init__(self, monkeypatch, count, error):
        self.left, self.error, self._make = count, error, prepared_files._record
        monkeypatch.setattr(prepared_files, "_record", self)

    def __call__(self, row):
        if not self.left:
            raise self.error
        self.left -= 1
        return self._make(row)


@pytest.mark.parametrize("num_records", usual(0, 10, also=[6, 19]))
def test_interrupted_output_goes_on_to_the_same_bytes(photos, tmp_path, monkeypatch, log, num_records):
    """Files of 6, 7 and 7 images: killed before the first, between two and within one."""
    prepare(config(photos, tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Stopped(patch, num_records, KeyboardInterrupt())
        prepare(config(photos, tmp_path / "cut"))
    for name in ("train-00002-of-00003.tfrecord.123.tmp", "unfinished.json.0123456789abcdef.tmp"):
        (tmp_path / "cut" / name).write_text("of a killed process")
    finished = sorted((tmp_path / "cut").glob("*.tfrecord"))
    assert len(finished) == {0: 0, 6: 1, 10: 1, 19: 2}[num_records]
    assert not (tmp_path / "cut" / "manifest.json").exists()
    before = [path.stat().st_ino for path in finished]
    prepare(config(photos, tmp_path / "cut"))
    assert f"{3 - len(finished)} of 3 files still to be written" in log.text
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert [path.stat().st_ino for path in finished] == before  # They are not written again.


def test_second_process_is_refused_and_the_first_ends_as_if_alone(out, photos, tmp_path, monkeypatch):
    prepare(config(photos, tmp_path / "alone"))
    messages = []

    def record(row, make=prepared_files._record):
        if not messages:
            messages.append(refusal(photos, out))
        return make(row)

    monkeypatch.setattr(prepared_files, "_record", record)
    prepare(config(photos, out))
    assert messages[0].startswith(f"--output={out}: another process writes there (host ")
    assert files(out) == files(tmp_path / "alone")


def test_overwriting_begins_anew_and_then_goes_on(out, photos, monkeypatch):
    prepare(config(photos, out))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="without --overwrite"):
        Stopped(patch, 10, KeyboardInterrupt())
        prepare(config(photos, out, overwrite=True))
    (finished,) = out.glob("*.tfrecord")
    before = finished.read_bytes()
    # Resuming compares sizes and does not see this.
    finished.write_bytes(before[::-1])
    with monkeypatch.context() as patch:
        Stopped(patch, 0, tf.errors.ResourceExhaustedError(None, None, "No space left on device"))
        message = refusal(photos, out, overwrite=True)
    assert message.endswith("start the same command again without --overwrite: it goes on from there.")
    prepare(config(photos, out))
    assert finished.read_bytes() == before


def test_finished_output_is_described_and_not_converted_again(out, photos, monkeypatch, log):
    prepare(config(photos, out))
    before = files(out)
    assert re.search(r"^train: 20 images in 3 files, \d+\.\d kB\.$", "\n".join(log.messages), re.MULTILINE)
    assert f"python -m tf_simclr --flagfile=photos --dataset=tfrecord:{out}" in log.text
    log.clear()
    monkeypatch.setattr(module, "convert_files", None)
    prepare(config(photos, out))
    assert f"Already prepared: {out}." in log.messages
    assert "train: 20 images in 3 files" in log.text
    assert files(out) == before


def test_lost_and_damaged_files_are_written_again(out, photos):
    (photos / NAMES[3]).write_bytes(b"")
    prepare(config(photos, out))
    before = files(out)
    first, second, _ = sorted((out).glob("*.tfrecord"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    prepare(config(photos, out))
    assert files(out) == before


def test_full_disk_keeps_finished_files(out, photos, monkeypatch):
    full = tf.errors.ResourceExhaustedError(None, None, "No space left on device")
    with monkeypatch.context() as patch:
        Stopped(patch, 8, full)
        message = refusal(photos, out)
    what = "cannot write train-00001-of-00003.tfrecord (No space left on device); free some space"
    assert message == f"--output={out}: {what} and start the same command again: it goes on from there."
    assert sorted(files(out)) == ["train-00000-of-00003.tfrecord", "unfinished.json"]
    prepare(config(photos, out))
    assert len(files(out)) == 4


PARENT = """
    import contextlib, multiprocessing, time
    from tf_simclr.preparation import prepare
    from tf_simclr.config import DataConfig, PrepareConfig

    if __name__ == "__main__":
        config = PrepareConfig(data=DataConfig(dataset="folder:x"), output="y", prepare_workers=2)
        with prepare._start_workers(config) as convert:
            list(convert(["none"] * 100))
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
            time.sleep(60)
"""


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path):
    (tmp_path / "parent.py").write_text(textwrap.dedent(PARENT))
    command = [sys.executable, str(tmp_path / "parent.py")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, "the processes are still there"
        time.sleep(0.1)


@pytest.mark.slow
def test_process_that_is_ended_from_outside_is_told(out, photos, monkeypatch):
    monkeypatch.setattr(module, "start_worker", os.abort)
    message = refusal(photos, out, prepare_workers=2)
    assert message.startswith("--prepare_workers=2: one of 2 processes was ended from outside")


# ---- Damaged images


def test_unreadable_images_are_left_out_counted_and_listed(out, photos, tmp_path, log):
    bad = ["cat/002.png", "dog/004.png"]
    for name in bad:
        (photos / name).write_text("no image")
    prepare(config(photos, out))
    rows = [row for path in sorted((out).glob("*.tfrecord")) for row in read(path)]
    assert sorted(name for name, _, _ in rows) == [name for name in NAMES if name not in bad]
    split = manifest_of(out)["splits"]["train"]
    assert (split["num_examples"], split["num_unreadable"]) == (18, 2)
    problem = "is no JPEG, PNG, BMP, GIF, WebP, TIFF or PPM image"
    lines = (out / "unreadable.txt").read_text().splitlines()
    assert sorted(lines) == [f"{name}\t{problem}" for name in bad]
    assert f"Left out 2 unreadable images, listed in {tmp_path / 'out' / 'unreadable.txt'}: " in log.text


def test_too_many_unreadable_images_stop_until_they_are_tolerated(out, photos):
    for number in range(6):
        (photos / NAMES[number]).rename((photos / NAMES[number]).with_suffix(".tif")).write_bytes(b"")
    message = refusal(photos, out, max_bad_image_fraction=0.1)
    assert message.startswith("--max_bad_image_fraction=0.1: 6 of 20 images of folder:")
    assert message.endswith(".tif; fix or remove them, or tolerate a larger share.")  # It does not recommend itself.
    prepare(config(photos, out, max_bad_image_fraction=0.3))
    assert manifest_of(out)["splits"]["train"]["num_examples"] == 14


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (MemoryError(), "memory ran out: use fewer --prepare_workers"),
    ],
)
def test_possibly_intact_image_is_not_left_out(out, photos, tmp_path, monkeypatch, error, problem):
    """The second of three files cannot be read at first."""
    prepare(config(photos, tmp_path / "whole"))
    name = read(tmp_path / "whole" / "train-00001-of-00003.tfrecord")[1][0]

    def open_or_fail(path, mode):
        if path == str(photos / name):
            raise error
        return open(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(image_files, "open", open_or_fail, raising=False)
        message = refusal(photos, out, max_bad_image_fraction=1)
    what = f"{photos / name} could not be read ({problem}); fix that"
    assert message == f"--dataset=folder:{photos}: {what} and start the same command again: it goes on from there."
    assert sorted(files(out)) == ["train-00000-of-00003.tfrecord", "unfinished.json"]
    prepare(config(photos, out))
    assert files(out) == files(tmp_path / "whole")


def test_folder_that_vanishes_stops(out, photos, tmp_path, monkeypatch):
    def unmount(splits):
        photos.rename(tmp_path / "unmounted")
        return []

    monkeypatch.setattr(module, "_image_states", unmount)
    assert "(its folder is gone); fix that and start" in refusal(photos, out)


def test_unknown_state_of_an_image_stops(out, photos, monkeypatch):
    """Otherwise the same images would seem to be others later."""
    stat = os.stat

    def stat_or_fail(path, **options):
        if path == str(photos / NAMES[3]):
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", stat_or_fail)
    message = refusal(photos, out)
    assert f"{photos / NAMES[3]} could not be read (Permission denied)" in message
    assert not (out).exists()


def test_reading_error_reaches_the_parent_process():
    error = pickle.loads(pickle.dumps(image_files.ReadError("a.jpg", "Permission denied")))
    assert (error.path, error.problem) == ("a.jpg", "Permission denied")


# ---- Bad input


def test_output_of_other_settings_is_refused_and_kept(out, photos):
    prepare(config(photos, out))
    before = files(out)
    fix = "; use another directory, or start again with --overwrite=True."
    settings = f"--output={out}: was prepared with --prepare_short_side=0, not 8, --seed=0, not 1"
    assert refusal(photos, out, prepare_short_side=8, seed=1) == f"{settings}{fix}"
    os.utime(photos / NAMES[0], ns=(0, 0))
    images = f"--output={out}: was prepared with other images, of folder:{photos.name}"
    assert refusal(photos, out) == f"{images}{fix}"
    (photos / NAMES[0]).unlink()
    assert "other images" in refusal(photos, out)
    assert files(out) == before


def test_overwriting_deletes_only_files_of_this_program(out, photos):
    (photos / NAMES[0]).write_bytes(b"")
    prepare(config(photos, out, prepare_shards=5))
    (out / "train-00007-of-00009.tfrecord").write_text("mine")
    manifest = manifest_of(out)
    del manifest["splits"]["train"]["files"][0]
    (out / "manifest.json").write_text(json.dumps(manifest))
    write_images(photos / "extra", 1)
    (photos / NAMES[0]).unlink()
    prepare(config(photos, out, overwrite=True))
    names = {f"train-{number:05}-of-00003.tfrecord" for number in range(3)}
    # The first of the old ones is no longer in the manifest.
    kept = {"train-00007-of-00009.tfrecord", "train-00000-of-00005.tfrecord"}
    assert set(files(out)) == {"manifest.json"} | names | kept


@pytest.mark.parametrize("damage", [{"num_shards": 10**9}, {"files": [{"name": "../a"}]}, {"num_images": -1}])
def test_damaged_manifest_is_none_of_ours(tmp_path, damage):
    manifest = new_manifest({}, None, {"train": (12, 3)})
    manifest["splits"]["train"] |= damage
    (tmp_path / "unfinished.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="holds files that were not prepared here"):
        PreparedFiles(str(tmp_path), overwrite=True)


def test_directory_of_others_is_refused(out, photos):
    (out).mkdir()
    (out / "manifest.json").write_text('{"format": "of another program"}')
    for overwrite in (False, True):
        message = "holds files that were not prepared here (manifest.json); name a new or an empty directory."
        assert refusal(photos, out, overwrite=overwrite) == f"--output={out}: {message}"
    assert list(files(out)) == ["manifest.json"]


def test_output_that_cannot_be_written_is_refused(out, photos, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "cannot be read (Not a directory); name another" in refusal(photos, tmp_path / "file" / "out")
    assert "cannot be written (" in refusal(photos, "/proc/out")
    assert "write to a local directory" in refusal(photos, "gs://bucket/out")
    assert "lies in the folder of the images" in refusal(photos, photos / "out")
    assert not (photos / "out").exists()


def test_data_that_is_no_folder_is_refused(out, tmp_path):
    with pytest.raises(UserError, match=r"^--dataset=digits: only folders of images are prepared; name one as"):
        PrepareConfig(data=DataConfig(dataset="digits"), output="out")
    assert "does not exist" in refusal(tmp_path / "nothing", out)


def test_splits_of_other_classes_are_refused(out, splits):
    for name in ("cat", "horse"):
        write_images(splits / "test" / name, 1)
    message = "has 2 classes (cat, horse), the splits before it 2 classes (cat, dog); add a folder of each"
    assert message in refusal(splits, out)
    assert not (out).exists()


def test_split_that_lacks_a_class_keeps_the_labels_of_the_first(out, splits):
    write_images(splits / "test" / "dog", 2)
    prepare(config(splits, out))
    source = load_source(DataConfig(dataset=f"tfrecord:{out}"), "test")
    assert (source.class_names, source.read_labels().tolist()) == (("cat", "dog"), [1, 1])


@pytest.mark.parametrize(
    ("sizes", "num_classes", "more"),
    [
        ({"train": 64, "test": 10}, 2, []),
        ({"train": 20, "unlabelled": 30}, 3, ["--train_batch_size=50"]),
        ({"train": 20, "unlabelled": 44}, 3, []),
        ({"train": 100}, 0, ["--train_mode=pretrain"]),
        ({"train": 100}, 1, ["--train_mode=pretrain"]),
        ({"unlabelled": 9}, 0, ["--train_split=unlabelled", "--train_mode=pretrain", "--train_batch_size=9"]),
    ],
)
def test_suggested_flags_fit_the_prepared_files(sizes, num_classes, more):
    flags = training_flags("a b", sizes, num_classes)
    assert flags == ["--flagfile=photos", "--dataset=tfrecord:a b", *more]
    config, _ = parse_command_line(flags)
    stages = config.stages.values() if num_classes > 1 else [config]
    batches = {stage.train.train_batch_size for stage in stages if stage.train.train_mode in ("pretrain", "distill")}
    assert batches == {min(64, sum(sizes.values()))}
