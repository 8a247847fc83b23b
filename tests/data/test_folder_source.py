"""Folders of images: which images, classes and parts they hold, what is refused, and unreadable images."""

import os
import pathlib

import numpy as np
import pytest

from tests.data.conftest import grey_image, write_image
from tests.data.kinds import GreyView, plain_decoding, read
from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import BatchPlan, available_splits, load_source, train_dataset


def config(folder, **kwargs):
    return DataConfig(dataset=f"folder:{folder}", **kwargs)


@pytest.mark.parametrize("cache", [False, True])
def test_folder_of_classes(class_folder, cache):
    (class_folder / ".cache").mkdir()
    source = load_source(config(class_folder, cache_dataset=cache), "train")
    assert (source.class_names, available_splits(config(class_folder))) == (("cat", "dog"), ("train",))
    assert read(source) == (list(range(12)), [0] * 6 + [1] * 6, 0)


def test_folder_without_classes_has_no_labels(tmp_path):
    for number in range(3):
        write_image(tmp_path / f"{number}.JPG", grey_image(number))
    source = load_source(config(tmp_path), "train")
    assert (source.num_classes, read(source)) == (None, ([0, 1, 2], [-1] * 3, 0))


def test_class_name_that_is_no_text_becomes_one(tmp_path):
    for name in (b"caf\xe9", b"tea"):
        write_image(pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)) / "0.png", grey_image(0))
    source = load_source(config(tmp_path), "train")
    assert (source.class_names, read(source)) == (("caf\\xe9", "tea"), ([0, 0], [0, 1], 0))


def test_parts_of_a_split_are_mixed_over_the_classes(class_folder):
    first, second = (load_source(config(class_folder), split) for split in ("train[:50%]", "train[50%:]"))
    assert sorted([*first.files, *second.files]) == sorted(map(str, class_folder.glob("*/*")))
    assert set(first.labels) == set(second.labels) == {0, 1}


def test_fingerprint_depends_on_the_images_and_not_on_their_place(class_folder):
    def fingerprint(folder=class_folder, **kwargs):
        return load_source(config(folder, **kwargs), "train").fingerprint()

    first = fingerprint()
    part = load_source(config(class_folder), "train[:50%]")
    assert len({first, part.fingerprint(), part.subset(np.arange(3), "some").fingerprint()}) == 3
    moved = class_folder.rename(class_folder.parent / "elsewhere")
    assert fingerprint(moved) == fingerprint(moved, cache_dataset=True) == first
    (moved / "cat" / "00.png").rename(moved / "cat" / "renamed.png")
    assert fingerprint(moved) != first


@pytest.mark.parametrize("cache", [False, True])
def test_link_to_itself_and_file_that_vanishes_cost_one_example_each(class_folder, cache):
    os.symlink("loop.png", class_folder / "cat" / "loop.png")
    if cache:
        (class_folder / "dog" / "x.png").write_bytes(b"")
    source = load_source(config(class_folder, cache_dataset=cache), "train")
    (class_folder / "cat" / "00.png").unlink()
    numbers, labels, num_bad = read(source)
    assert numbers == list(range(0 if cache else 1, 12)) and num_bad == 2
    assert labels == [number // 6 for number in numbers]


@pytest.mark.slow
def test_folder_without_any_readable_image_still_gives_batches(tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.jpg").write_text("no")
    source = load_source(config(tmp_path), "train")
    with plain_decoding():
        batches = train_dataset(source, GreyView(), plan=BatchPlan(global_batch_size=4), seed=0, num_views=1)
    (batch,) = batches.take(1).as_numpy_iterator()
    assert batch["bad_images"] == 4 and not batch["views"][0].any()


def test_held_out_split_may_have_a_class_without_images(tmp_path):
    write_image(tmp_path / "test" / "some" / "0.png", grey_image(0))
    (tmp_path / "test" / "none").mkdir()
    source = load_source(config(tmp_path), "test", flag="eval_split")
    assert (source.class_names, source.read_labels().tolist()) == (("none", "some"), [1])
    with pytest.raises(UserError, match=r"no images in the class folder\(s\) none of .*; add some or remove them\."):
        load_source(config(tmp_path), "test")


def test_folder_that_holds_no_images_is_refused(tmp_path, class_folder):
    write_image(tmp_path / "one.jpg", grey_image(1))
    (tmp_path / "empty").mkdir()
    write_image(class_folder / "loose.png", grey_image(0))
    cases = {
        tmp_path / "missing": r"missing does not exist; name a folder of images\.",
        tmp_path / "one.jpg": r"one\.jpg is a file; name a folder of images\.",
        tmp_path / "empty": r"empty holds no images \(\.jpg.*\); put some there\.",
        class_folder: r"holds images \(loose\.png\) beside subfolders \(cat\); use either one subfolder",
        "": r"the empty path does not exist",
    }
    for folder, message in cases.items():
        with pytest.raises(UserError, match=rf"^--dataset=folder:{folder}: [^\n]*{message}"):
            load_source(config(folder), "train")
