"""Folders of images: what is found in them, what is refused, and images that cannot be read."""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import grey_image, numbers_of, write_image
from tf_simclr.augment.views import EvalView, TrainView
from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import BatchPlan, available_splits, check_bad_images, eval_dataset, load_source, train_dataset

VIEW = TrainView(image_size=8)
EVAL_VIEW = EvalView(image_size=8)


def config(folder, **kwargs):
    return DataConfig(dataset=f"folder:{folder}", **kwargs)


def evaluated(source, batch_size=8):
    """Returns numbers of the images, labels and masks of all rows, and the count of bad images."""
    plan = BatchPlan(global_batch_size=batch_size)
    parts = list(eval_dataset(source, EVAL_VIEW, plan=plan).as_numpy_iterator())
    images, mask = (np.concatenate([part[key] for part in parts]) for key in ("images", "mask"))
    labels = np.concatenate([part["labels"] for part in parts]) if "labels" in parts[0] else None
    return numbers_of(images), labels, mask, sum(part["bad_images"] for part in parts)


@pytest.mark.slow
def test_folder_of_classes(class_folder):
    (class_folder / "cat" / "notes.txt").write_text("no image")
    (class_folder / ".cache").mkdir()
    source = load_source(config(class_folder), "train")
    assert (source.num_examples, source.class_names) == (12, ("cat", "dog"))
    numbers, labels, mask, bad = evaluated(source)
    np.testing.assert_array_equal(numbers[mask == 1], np.arange(12))
    np.testing.assert_array_equal(labels[mask == 1], [0] * 6 + [1] * 6)
    assert (mask.sum(), bad, available_splits(config(class_folder))) == (12, 0, ("train",))


@pytest.mark.slow
def test_folder_without_classes_has_no_labels(tmp_path):
    for number in range(3):
        write_image(tmp_path / f"{number}.JPG", grey_image(number))
    source = load_source(config(tmp_path), "train")
    assert source.num_classes is None
    numbers, labels, mask, _ = evaluated(source)
    np.testing.assert_array_equal(numbers[mask == 1], [0, 1, 2])
    assert labels is None


def test_folder_with_split_subfolders(class_folder):
    root = class_folder.parent / "splits"
    root.mkdir()
    class_folder.rename(root / "train")
    write_image(root / "test" / "0.png", grey_image(0))
    assert available_splits(config(root)) == ("train", "test")
    assert load_source(config(root), "train").num_classes == 2
    assert load_source(config(root), "test").num_classes is None
    with pytest.raises(UserError, match=r"^--eval_split=validation: folder:.* has the split\(s\) train, test; use"):
        load_source(config(root), "validation", flag="eval_split")


def test_folder_of_images_without_labels_is_a_split(class_folder):
    root = class_folder.parent / "splits"
    root.mkdir()
    class_folder.rename(root / "train")
    for number in range(3):
        write_image(root / "unlabelled" / f"{number}.png", grey_image(number))
    assert available_splits(config(root)) == ("train", "unlabelled")
    source = load_source(config(root), "unlabelled")
    assert (source.num_examples, source.num_classes) == (3, None)


def test_folder_with_a_class_named_like_a_split(tmp_path):
    for name in ("bus", "train"):
        write_image(tmp_path / name / "0.png", grey_image(0))
    assert load_source(config(tmp_path), "train").class_names == ("bus", "train")


@pytest.mark.slow
def test_folder_of_a_class_whose_name_is_no_text_has_one_that_can_be_written(tmp_path):
    for name in (b"caf\xe9", b"tea"):
        path = os.fsencode(tmp_path / "x").replace(b"x", name)
        os.mkdir(path)
        write_image(pathlib.Path(os.fsdecode(path)) / "0.png", grey_image(0))
    source = load_source(config(tmp_path), "train")
    assert source.class_names == ("caf\\xe9", "tea")
    _, _, mask, bad = evaluated(source, 2)
    assert (mask.sum(), bad) == (2, 0)


@pytest.mark.slow
def test_link_to_itself_costs_one_example(class_folder):
    os.symlink("loop.png", class_folder / "cat" / "loop.png")
    source = load_source(config(class_folder), "train")
    _, _, _, bad = evaluated(source)
    assert (source.num_examples, bad) == (13, 1)


def test_folder_finds_images_in_folders_of_a_class(tmp_path):
    write_image(tmp_path / "a" / "deep" / "0.png", grey_image(0))
    write_image(tmp_path / "b" / "1.png", grey_image(1))
    assert load_source(config(tmp_path), "train").num_examples == 2


@pytest.mark.slow
def test_folder_parts_of_a_split_are_mixed_over_the_classes(class_folder):
    first = load_source(config(class_folder), "train[:50%]")
    second = load_source(config(class_folder), "train[50%:]")
    numbers = [evaluated(part, 6)[0] for part in (first, second)]
    assert sorted(np.concatenate(numbers)) == list(range(12))
    assert set(first.labels) == set(second.labels) == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("cache", [False, True])
def test_folder_training_is_seeded_and_resumes(class_folder, cache):
    def batches(count, **kwargs):
        source = load_source(config(class_folder, cache_dataset=cache), "train")
        dataset = train_dataset(source, VIEW, **{"plan": BatchPlan(global_batch_size=4), "seed": 1} | kwargs)
        return list(dataset.take(count).as_numpy_iterator())

    whole = batches(6)
    numbers = np.concatenate([numbers_of(batch["views"][0]) for batch in whole]).reshape(2, 12)
    np.testing.assert_array_equal(np.sort(numbers, axis=1), np.tile(np.arange(12), (2, 1)))
    np.testing.assert_array_equal(numbers.ravel() >= 6, np.concatenate([batch["labels"] for batch in whole]))
    for batch, again in zip(whole[2:], batches(4, first_step=2), strict=True):
        np.testing.assert_array_equal(batch["views"], again["views"])
    plan = BatchPlan(global_batch_size=4, num_replicas=2, total_replicas=2)
    for index, part in enumerate(batches(12, plan=plan)):
        rows = slice(2 * (index % 2), 2 * (index % 2) + 2)
        np.testing.assert_allclose(part["views"][1], whole[index // 2]["views"][1][rows], atol=1e-6)


@pytest.mark.slow
def test_folder_decodes_every_kind_to_rgb(tmp_path):
    image = Image.fromarray(np.full((12, 16, 3), 100, np.uint8))
    image.convert("L").save(tmp_path / "grey.png")
    image.convert("L").save(tmp_path / "grey.jpg")
    image.convert("RGBA").save(tmp_path / "alpha.png")
    image.quantize().save(tmp_path / "palette.png")
    image.convert("LA").save(tmp_path / "grey_alpha.png")
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    image.save(tmp_path / "plain.bmp")
    frames = [Image.new("RGB", (16, 12), (value,) * 3) for value in (100, 200)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (16, 12), (100,) * 3).save(tmp_path / "really_a_png.jpg", format="PNG")
    source = load_source(config(tmp_path), "train")
    plan = BatchPlan(global_batch_size=source.num_examples)
    (batch,) = eval_dataset(source, EVAL_VIEW, plan=plan).as_numpy_iterator()
    assert batch["bad_images"] == 0, source.bad_image_names()
    np.testing.assert_allclose(batch["images"] * 255, 100, atol=3)


def test_fingerprint_tells_other_images_and_not_another_place(class_folder):
    def fingerprint(folder=class_folder, **kwargs):
        return load_source(config(folder, **kwargs), "train").fingerprint()

    first = fingerprint()
    part = load_source(config(class_folder), "train[:50%]")
    assert len({first, part.fingerprint(), part.subset(np.arange(3), "some").fingerprint()}) == 3
    moved = class_folder.rename(class_folder.parent / "elsewhere")
    assert fingerprint(moved) == fingerprint(moved, cache_dataset=True) == first
    (moved / "cat" / "00.png").rename(moved / "cat" / "renamed.png")
    assert fingerprint(moved) != first


def damage(folder):
    """Adds three files that are no images; returns their paths."""
    whole = write_image(folder / "dog" / "x.jpg", np.random.RandomState(0).randint(0, 255, (64, 64, 3), np.uint8))
    whole.write_bytes(whole.read_bytes()[:800])
    empty, text = folder / "cat" / "y.png", folder / "cat" / "z.jpg"
    empty.write_bytes(b"")
    text.write_text("not an image")
    return {str(path) for path in (whole, empty, text)}


@pytest.mark.slow
@pytest.mark.parametrize("cache", [False, True])
def test_folder_unreadable_images_are_replaced_counted_and_named(class_folder, cache):
    bad_paths = damage(class_folder)
    source = load_source(config(class_folder, cache_dataset=cache), "train")
    assert source.num_examples == 15 and not source.bad_image_names()
    dataset = train_dataset(source, VIEW, plan=BatchPlan(global_batch_size=5), seed=0)
    parts = list(dataset.take(3).as_numpy_iterator())
    assert sum(part["bad_images"] for part in parts) == 3
    assert set(source.bad_image_names()) == bad_paths
    numbers = np.concatenate([numbers_of(part["views"][0]) for part in parts])
    assert set(numbers) == set(range(12))
    np.testing.assert_array_equal(numbers >= 6, np.concatenate([part["labels"] for part in parts]))
    with pytest.raises(UserError, match=r"^--max_bad_image_fraction=0.01: 3 of 15 images of folder:.* such as /"):
        check_bad_images(source, num_bad=3, num_seen=15, max_fraction=0.01)


@pytest.mark.slow
def test_folder_unreadable_images_are_masked_in_evaluation(class_folder):
    damage(class_folder)
    numbers, _, mask, bad = evaluated(load_source(config(class_folder), "train"))
    np.testing.assert_array_equal(numbers[mask == 1], np.arange(12))
    assert (mask.sum(), len(mask), bad) == (12, 16, 3)


@pytest.mark.slow
def test_folder_image_over_the_pixel_limit_is_unreadable(class_folder, monkeypatch):
    monkeypatch.setattr("tf_simclr.images.decode.MAX_PIXELS", 4095)
    write_image(class_folder / "dog" / "x.png", np.zeros((64, 64, 3), np.uint8))
    source = load_source(config(class_folder), "train")
    _, _, mask, bad = evaluated(source)
    assert (mask.sum(), bad) == (12, 1)
    (name,) = source.bad_image_names()
    assert name.endswith("x.png")


@pytest.mark.slow
def test_folder_file_that_vanishes_is_unreadable(class_folder):
    source = load_source(config(class_folder), "train")
    (class_folder / "cat" / "00.png").unlink()
    _, _, mask, bad = evaluated(source)
    assert (mask.sum(), bad) == (11, 1)


@pytest.mark.slow
def test_folder_without_any_readable_image_still_gives_batches(tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.jpg").write_text("no")
    source = load_source(config(tmp_path), "train")
    (batch,) = train_dataset(source, VIEW, plan=BatchPlan(global_batch_size=4), seed=0).take(1).as_numpy_iterator()
    assert batch["bad_images"] == 4 and not batch["views"][0].any()


def test_held_out_split_may_have_a_class_without_images(tmp_path):
    write_image(tmp_path / "test" / "some" / "0.png", grey_image(0))
    (tmp_path / "test" / "none").mkdir()
    source = load_source(config(tmp_path), "test", flag="eval_split")
    assert (source.class_names, source.read_labels().tolist()) == (("none", "some"), [1])
    with pytest.raises(UserError, match=r"no images in the class folder\(s\) none of "):
        load_source(config(tmp_path), "test")


def test_folder_refuses_what_holds_no_images(tmp_path, class_folder):
    write_image(tmp_path / "one.jpg", grey_image(1))
    (tmp_path / "empty").mkdir()
    (tmp_path / "half" / "none").mkdir(parents=True)
    write_image(tmp_path / "half" / "some" / "0.png", grey_image(0))
    write_image(class_folder / "loose.png", grey_image(0))
    cases = {
        tmp_path / "missing": r"missing does not exist; name a folder of images\.",
        tmp_path / "one.jpg": r"one\.jpg is a file; name a folder of images\.",
        tmp_path / "empty": r"empty holds no images \(\.jpg.*\); put some there\.",
        tmp_path / "half": r"no images in the class folder\(s\) none of .*; add some or remove them\.",
        class_folder: r"holds images \(loose\.png\) beside subfolders \(cat\); use either one subfolder",
        "": r"the empty path does not exist",
    }
    for folder, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            load_source(config(folder), "train")
        assert str(error.value).startswith(f"--dataset=folder:{folder}: ")
        assert "\n" not in str(error.value)
