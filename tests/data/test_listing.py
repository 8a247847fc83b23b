"""The listing of a folder: its order, links, progress, and folders that cannot be read."""

import os

import pytest
import tensorflow as tf

from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import listing, load_source
from tf_simclr.data.listing import list_images
from tf_simclr.terminal import progress


@pytest.fixture
def folder(tmp_path):
    """Two classes; one of them has folders of its own."""
    for name in ("b/2.png", "b/1.JPG", "a/x.png", "b/d/z.gif", "b/c/3.png", "b/c/\udcff.png", "b/ü.tiff"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no image")
    (tmp_path / "images" / "b" / ".hidden.png").write_text("")
    (tmp_path / "images" / "b" / "notes.txt").write_text("")
    (tmp_path / "images" / "b" / "README").write_text("")
    return str(tmp_path / "images")


def paths_of(found):
    return [found.path(row) for row in range(len(found))]


def walked(folder):
    """The expected listing: the images of a folder, then those of its subfolders, in Python's order."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    paths = [os.path.join(folder, name) for name in names]
    images = [path for path in paths if path.lower().endswith(listing.IMAGE_EXTENSIONS)]
    return images + [path for one in paths if os.path.isdir(one) for path in walked(one)]


def test_listing_is_in_the_order_of_the_paths(folder):
    found = list_images(folder)
    assert paths_of(found) == walked(folder) and len(found) == 7
    assert (found.class_names, found.class_counts.tolist()) == (("a", "b"), [1, 6])
    assert found.ignored == {"hidden": 1, ".txt": 1, "without extension": 1}
    tensors = tf.data.Dataset.range(len(found)).map(found.path_tensor)
    assert [os.fsdecode(path) for path in tensors.as_numpy_iterator()] == walked(folder)


def test_links_are_followed_but_not_in_circles(folder, tmp_path):
    os.symlink(folder, f"{folder}/b/up")
    os.symlink(f"{folder}/b", f"{folder}/a/other")
    os.symlink(folder, f"{folder}/again")
    os.symlink(f"{folder}/nowhere", f"{folder}/b/broken")
    os.symlink(f"{folder}/a/x.png", f"{folder}/b/x.png")
    names = [os.path.relpath(path, folder) for path in paths_of(list_images(folder))]
    own = ["1.JPG", "2.png", "x.png", "ü.tiff", "c/3.png", "c/\udcff.png", "d/z.gif"]
    assert names == ["a/x.png"] + [f"a/other/{name}" for name in own] + [f"b/{name}" for name in own]


def test_long_listing_shows_its_progress(folder, log, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    list_images(folder)
    assert log.messages[-1] == f"Listing {folder}: 7 images so far."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_folder_is_one_line(folder):
    os.chmod(f"{folder}/b/c", 0)
    try:
        with pytest.raises(UserError, match=r"images/b/c cannot be read \(Permission denied\); name a folder"):
            load_source(DataConfig(dataset=f"folder:{folder}"), "train")
    finally:
        os.chmod(f"{folder}/b/c", 0o755)


def test_folder_that_vanishes_is_one_line(folder, monkeypatch):
    def vanishing(place, report=lambda: None, scan=listing.scan):
        found = scan(place, report)
        if place.endswith("/b"):
            os.rename(f"{folder}/b/d", f"{folder}/b/e")
        return found

    monkeypatch.setattr(listing, "scan", vanishing)
    with pytest.raises(UserError, match=r"images/b/d cannot be read \(No such file or directory\); name"):
        load_source(DataConfig(dataset=f"folder:{folder}"), "train")
