"""Folders in a folder: splits, classes, or refused; files that are ignored, and named."""

import os

import pytest

from tests.data.conftest import grey_image, write_image
from tests.data.kinds import read
from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import (
    available_splits,
    data_lines,
    describe_source,
    few_labels,
    load_eval_source,
    load_source,
    load_training_source,
)
from tf_simclr.data.listing import list_images


def tree(root, *names):
    """Makes empty files, which are not opened if they are named like images; returns the data set."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return DataConfig(dataset=f"folder:{root}")


SPLITS = ("Train/cat/1.png", "Train/cat/2.png", "Train/dog/3.png", "valid/cat/4.png", "valid/dog/5.png")
REST = ("UNLABELED/a/6.png", "UNLABELED/7.png", "test_images/dog/8.png", "test_images/cat/9.png")


def test_splits_in_any_spelling_are_splits(tmp_path):
    data = tree(tmp_path, *SPLITS, *REST)
    assert available_splits(data) == ("train", "test", "validation", "unlabelled")
    for name, count in {"train": 3, "Train": 3, "val": 2, "validation": 2, "test": 2}.items():
        source = load_source(data, name)
        assert (source.num_examples, source.class_names) == (count, ("cat", "dog")), name
    source = load_source(data, "unlabelled")
    assert (source.num_examples, source.class_names, source.labels) == (2, None, None)
    assert load_eval_source(data).name.endswith("(validation)")


def test_training_without_labels_takes_unlabelled_images_too(tmp_path):
    data = tree(tmp_path, *SPLITS, *REST)
    source = load_training_source(data)
    assert source.name == f"folder:{tmp_path} (train+unlabelled)"
    assert (source.num_unlabelled, source.class_names) == (2, ("cat", "dog"))
    assert source.labels.tolist() == [0, 0, 1, -1, -1]
    names = (*SPLITS[:3], "UNLABELED/7.png", "UNLABELED/a/6.png")
    assert list(source.files) == [f"{tmp_path}/{name}" for name in names]
    assert [source.example_name(key) for key in range(5)] == list(source.files)
    labelled = few_labels(source, data)
    assert labelled.labels.tolist() == [0, 0, 1]
    assert few_labels(load_source(data, "train"), data).labels.tolist() == [0, 0, 1]
    (tmp_path / "UNLABELED").rename(tmp_path.parent / "elsewhere")
    assert load_training_source(data).name.endswith("(train)")


def test_few_labels_are_the_same_with_and_without_the_unlabelled_images(tmp_path):
    images = [f"{kind}/{number}.png" for kind in ("train/a", "train/b", "unlabelled") for number in range(9)]
    data = DataConfig(dataset=tree(tmp_path, *images).dataset, labels_per_class=3)
    chosen = [few_labels(source, data) for source in (load_source(data, "train"), load_training_source(data))]
    names = [[source.example_name(key) for key in range(6)] for source in chosen]
    assert names[0] == names[1]


@pytest.mark.parametrize("cache", [False, True])
def test_sum_of_splits_reads_its_images(tmp_path, cache):
    for number, name in enumerate(("train/a", "train/b", "test/b", "test/c")):
        write_image(tmp_path / name / "0.png", grey_image(number))
    data = DataConfig(dataset=f"folder:{tmp_path}", cache_dataset=cache)
    source = load_source(data, "train+test")
    assert (source.class_names, read(source)) == (("a", "b", "c"), ([0, 1, 2, 3], [0, 1, 1, 2], 0))
    assert sorted(load_source(data, "train[:50%]+train[50%:]").labels) == [0, 1]


REFUSED = {
    "two names of a split": (["val/a/1.png", "valid/a/1.png"], "val and valid in ROOT are both the split validation"),
    "unlabelled beside classes": (
        ["cat/1.png", "dog/1.png", "unlabelled/1.png"],
        "the folder(s) unlabelled in ROOT would be classes, but are named like splits; put splits side by side",
    ),
    "test beside classes": (["cat/1.png", "dog/1.png", "test/1.png"], "the folder(s) test in ROOT would be classes"),
    "train with folders beside another": (["train/cat/1.png", "other/1.png"], "the folder(s) train in ROOT would be"),
    "splits in a split": (["train/train/1.png", "train/val/1.png"], "the folder(s) train, val in ROOT/train would be"),
    "classes in classes": (
        ["one/cat/1.png", "one/dog/1.png", "two/cat/1.png", "two/dog/1.png"],
        "the folder(s) one, two in ROOT would be classes, but each holds the folders cat, dog; if these are the "
        "classes or splits, name one folder, such as folder:ROOT/one, otherwise put",
    ),
    "splits in classes": (
        ["cat/train/1.png", "cat/test/1.png", "dog/train/1.png", "dog/test/1.png"],
        "the folder(s) cat, dog in ROOT would be classes, but each holds the folders test, train",
    ),
    "splits one folder down": (["photos/train/1.png", "photos/test/1.png"], "one folder, such as folder:ROOT/photos"),
    "records": (["train-0.tfrecord"], "but 1 .tfrecord; use tfrecord:ROOT."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_folders_that_are_no_classes_are_refused(tmp_path, case):
    names, message = REFUSED[case]
    with pytest.raises(UserError) as error:
        load_source(tree(tmp_path, *names), "train")
    text = str(error.value)
    assert text.startswith(f"--dataset=folder:{tmp_path}: ") and "\n" not in text
    assert message.replace("ROOT", str(tmp_path)) in text


@pytest.mark.parametrize(
    "names",
    [
        ["bus/1.png", "train/1.png"],
        ["invalid/1.png", "valid/1.png"],
        # Tiny ImageNet has such folders.
        ["a/images/1.png", "b/images/1.png"],
        ["a/x/1.png", "b/y/1.png"],
        ["a/x/1.png", "a/y/1.png", "a/1.png", "b/x/1.png", "b/y/1.png"],
    ],
)
def test_folders_that_may_be_classes_are_classes(tmp_path, names):
    expected = tuple(sorted({name.partition("/")[0] for name in names}))
    assert load_source(tree(tmp_path, *names), "train").class_names == expected


def test_single_class_teaches_nothing(tmp_path):
    data = tree(tmp_path, "images/1.png", "images/2.png", "labels.csv")
    source = load_training_source(data)
    assert describe_source(source) == f"folder:{tmp_path} (train): 2 images, 1 class (images), 2 of each class."
    with pytest.raises(UserError, match=r"^--train_split=train: folder:.* has a single class, images; there is not"):
        few_labels(source, data)


def test_start_shows_classes_numbers_and_ignored_files(tmp_path):
    beside = ["notes.txt", "extra/1.png", "Train/dog/a.heic", "Train/dog/b.heic", "Train/cat/.c.png"]
    data = tree(tmp_path, *SPLITS, *REST, *beside, "valid/cat/LICENSE")
    lines = data_lines(load_training_source(data), load_eval_source(data))
    assert lines == [
        f"Training images: folder:{tmp_path} (train+unlabelled): 5 images, 2 classes (cat, dog), 1 to 2 of each class, "
        "2 without a label.",
        f"Evaluation images: folder:{tmp_path} (validation): 2 images, 2 classes (cat, dog), 1 of each class.",
        f"Ignored in {tmp_path}: 1 .txt.",
        f"Ignored in {tmp_path}: the folder extra, beside the splits Train, test_images, valid, UNLABELED.",
        f"Ignored in {tmp_path}/Train: 2 .heic, 1 hidden.",
        f"Ignored in {tmp_path}/valid: 1 without extension.",
    ]
    unlabelled = load_source(data, "unlabelled")
    assert data_lines(unlabelled, why_not="there is no linear probe")[:2] == [
        f"Training images: folder:{tmp_path} (unlabelled): 2 images without labels.",
        "Training without an evaluation: there is no linear probe.",
    ]


def test_images_are_found_by_their_content(tmp_path):
    for name in ("a.jfif", "b", "c.dat", "d.ppm", "e.txt"):
        write_image(tmp_path / "x.jpg", grey_image(1)).rename(tmp_path / name)
    (tmp_path / "f").write_text("no image")
    (tmp_path / "g.bin").write_bytes(b"BM")
    (tmp_path / "__MACOSX").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    listing = list_images(str(tmp_path))
    found = [os.path.basename(listing.path(row)) for row in range(len(listing))]
    assert found == ["a.jfif", "b", "c.dat", "d.ppm"]
    assert listing.ignored == {".txt": 1, "without extension": 1, ".bin": 1, "hidden": 1, "special": 1}
