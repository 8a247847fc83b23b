"""The index of a folder: when it is used, when not, and that the images are the same either way."""

import os
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import folder_index, listing, load_source
from tf_simclr.data.folder_index import index_path, indexed_images
from tf_simclr.data.listing import list_images
from tf_simclr.terminal import progress


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two classes, one of them with folders of its own, that were last changed long ago."""
    monkeypatch.setattr(folder_index, "MIN_IMAGES", 5)
    monkeypatch.setattr(folder_index, "_SETTLED_NANOSECONDS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("b/2.png", "b/1.JPG", "a/x.png", "b/d/z.gif", "b/c/3.png", "b/c/\udcff.png", "b/ü.tiff"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no image")
    (tmp_path / "images" / "b" / ".hidden.png").write_text("")
    (tmp_path / "images" / "b" / "notes.txt").write_text("")
    (tmp_path / "images" / "b" / "README").write_text("")
    time.sleep(0.02)  # Longer than the steps of the file system's clock.
    return str(tmp_path / "images")


@pytest.fixture
def num_listings(monkeypatch):
    """Counts how often a folder is listed."""
    calls = []

    def counted(folder):
        calls.append(folder)
        return list_images(folder)

    monkeypatch.setattr(folder_index, "list_images", counted)
    return calls


def paths_of(found):
    return [found.path(row) for row in range(len(found))]


def walked(folder):
    """What the listing has to be: the images of a folder, then those of the folders in it, in Python's order."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    paths = [os.path.join(folder, name) for name in names]
    images = [path for path in paths if path.lower().endswith(listing.IMAGE_EXTENSIONS)]
    return images + [path for one in paths if os.path.isdir(one) for path in walked(one)]


def test_listing_is_in_the_order_of_the_paths(folder):
    found, _ = list_images(folder)
    assert paths_of(found) == walked(folder) and len(found) == 7
    assert (found.class_names, found.class_counts.tolist()) == (("a", "b"), [1, 6])
    tensors = tf.data.Dataset.range(len(found)).map(found.path_tensor)
    assert [os.fsdecode(path) for path in tensors.as_numpy_iterator()] == walked(folder)


def test_second_start_takes_the_index(folder, num_listings):
    first, second = indexed_images(folder, None), indexed_images(folder, None)
    assert num_listings == [folder]
    assert paths_of(first) == paths_of(second) == walked(folder)
    assert (second.class_names, second.class_counts.tolist()) == (("a", "b"), [1, 6])
    assert first.ignored == second.ignored == {"hidden": 1, ".txt": 1, "without extension": 1}


def test_folder_source_is_the_same_with_and_without_an_index(folder, num_listings):
    sources = [
        load_source(DataConfig(dataset=f"folder:{folder}", folder_index=index), "train[:70%]")
        for index in (True, True, False)
    ]
    assert num_listings == [folder]
    for source in sources:
        assert list(source.files) == list(sources[2].files) and source.num_examples == 5
        np.testing.assert_array_equal(source.labels, sources[2].labels)
        assert [source.example_name(key) for key in range(5)] == [
            listing_name.encode(errors="surrogateescape").decode(errors="backslashreplace")
            for listing_name in source.files
        ]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: open(f"{folder}/b/c/new.png", "w").close(),
        lambda folder: os.remove(f"{folder}/a/x.png"),
        lambda folder: os.rename(f"{folder}/b/2.png", f"{folder}/b/5.png"),
        lambda folder: os.rename(f"{folder}/b/d", f"{folder}/b/e"),
        lambda folder: os.makedirs(f"{folder}/new"),
        lambda folder: os.rename(f"{folder}/b/c", f"{folder}/a/c"),
    ],
    ids=["added", "removed", "renamed", "folder renamed", "folder added", "folder moved"],
)
def test_whatever_changes_is_listed_again(folder, num_listings, change):
    before = [os.stat(place) for place in (folder, f"{folder}/a", f"{folder}/b")]
    indexed_images(folder, None)
    change(folder)
    # Even where somebody sets the times that can be set back.
    for place, state in zip((folder, f"{folder}/a", f"{folder}/b"), before, strict=True):
        os.utime(place, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert paths_of(indexed_images(folder, None)) == walked(folder)
    assert len(num_listings) == 2


def test_folder_that_was_changed_just_now_has_no_index_yet(folder, num_listings, monkeypatch):
    monkeypatch.setattr(folder_index, "_SETTLED_NANOSECONDS", 2_000_000_000)
    indexed_images(folder, None)
    assert not os.path.exists(index_path(folder, None))
    indexed_images(folder, None)
    assert len(num_listings) == 2


def test_small_folder_has_no_index(folder, monkeypatch):
    monkeypatch.setattr(folder_index, "MIN_IMAGES", 8)
    indexed_images(folder, None)
    assert not os.path.exists(index_path(folder, None))


def test_index_that_is_damaged_in_any_way_is_listed_again(folder, num_listings):
    """Bytes changed, cut off, of another version, or no such file at all."""
    indexed_images(folder, None)
    path, rng = index_path(folder, None), np.random.default_rng(0)
    with open(path, "rb") as file:
        whole = file.read()
    damaged = [b"", b"no zip", whole[:-1], whole[: len(whole) // 2], whole.replace(b"b/c", b"../")]
    for _ in range(60):
        changed = bytearray(whole)
        for place in rng.integers(len(whole), size=3):
            changed[place] = rng.integers(256)
        damaged.append(bytes(changed))
    for content in damaged:
        with open(path, "wb") as file:
            file.write(content)
        assert paths_of(indexed_images(folder, None)) == walked(folder)
    with open(path, "rb") as file:
        assert len(file.read()) == len(whole)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("names", np.frombuffer(b"../../etc/passwd\0" * 7, np.uint8)),
        ("names", np.frombuffer(b"a\0b", np.uint8)),
        ("counts", np.array([0, 1, 99, 0, 0], np.int64)),
        ("counts", np.array([0.5])),
        ("subfolders", np.frombuffer(b"x\0y\0z\0v\0w\0", np.uint8)),
        ("times", np.zeros([1, 2], np.int64)),
        ("version", np.frombuffer(b"0", np.uint8)),
    ],
)
def test_index_whose_parts_do_not_fit_is_listed_again(folder, num_listings, part, value):
    indexed_images(folder, None)
    path = index_path(folder, None)
    with np.load(path) as file:
        parts = dict(file)
    np.savez(path, **parts | {part: value})
    assert paths_of(indexed_images(folder, None)) == walked(folder)
    assert len(num_listings) == 2


def test_index_of_pickles_runs_nothing(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    indexed_images(folder, None)
    np.savez(index_path(folder, None), version=np.array([Evil()], object))
    assert paths_of(indexed_images(folder, None)) == walked(folder)
    assert not (tmp_path / "harm").exists()


def test_place_of_the_index_follows_data_dir_and_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    home = index_path("images", None)
    assert home.startswith(f"{tmp_path}/home/.cache/tf_simclr/folders/")
    assert index_path("images", "gs://bucket/data") == home
    assert index_path(os.path.abspath("images"), None) == home != index_path("others", None)
    assert index_path("images", str(tmp_path)).startswith(f"{tmp_path}/.tf_simclr/folders/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert index_path("images", None).startswith(f"{tmp_path}/xdg/tf_simclr/folders/")


def test_cache_that_cannot_be_written_is_no_error(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert paths_of(indexed_images(folder, None)) == walked(folder)

    def no_space(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "full"))
    monkeypatch.setattr(tf.io.gfile, "rename", no_space)
    assert paths_of(indexed_images(folder, None)) == walked(folder)
    assert not [name for _, _, names in os.walk(tmp_path / "full") for name in names]


def test_many_starts_at_once_leave_one_whole_index(folder, num_listings):
    found = []
    threads = [threading.Thread(target=lambda: found.append(indexed_images(folder, None))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(paths_of(one) == walked(folder) for one in found) and len(found) == 8
    assert os.listdir(os.path.dirname(index_path(folder, None))) == [os.path.basename(index_path(folder, None))]
    listed = len(num_listings)
    indexed_images(folder, None)
    assert len(num_listings) == listed


def test_links_are_followed_but_not_in_circles(folder, tmp_path):
    os.symlink(folder, f"{folder}/b/up")
    os.symlink(f"{folder}/b", f"{folder}/a/other")
    os.symlink(folder, f"{folder}/again")
    os.symlink(f"{folder}/nowhere", f"{folder}/b/broken")
    os.symlink(f"{folder}/a/x.png", f"{folder}/b/x.png")
    names = [os.path.relpath(path, folder) for path in paths_of(list_images(folder)[0])]
    own = ["1.JPG", "2.png", "x.png", "ü.tiff", "c/3.png", "c/\udcff.png", "d/z.gif"]
    assert names == ["a/x.png"] + [f"a/other/{name}" for name in own] + [f"b/{name}" for name in own]


def test_listing_that_takes_long_says_how_far_it_is(folder, log, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    list_images(folder)
    assert log.messages[-1] == f"Listing {folder}: 7 images so far."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folder_that_may_not_be_read_is_one_line(folder):
    os.chmod(f"{folder}/b/c", 0)
    try:
        with pytest.raises(UserError, match=r"images/b/c cannot be read \(Permission denied\); name a folder"):
            load_source(DataConfig(dataset=f"folder:{folder}"), "train")
    finally:
        os.chmod(f"{folder}/b/c", 0o755)


def test_folder_that_vanishes_meanwhile_is_one_line(folder, monkeypatch):
    def vanishing(place, report=lambda: None, scan=listing.scan):
        found = scan(place, report)
        if place.endswith("/b"):
            os.rename(f"{folder}/b/d", f"{folder}/b/e")
        return found

    monkeypatch.setattr(listing, "scan", vanishing)
    with pytest.raises(UserError, match=r"images/b/d cannot be read \(No such file or directory\); name"):
        load_source(DataConfig(dataset=f"folder:{folder}"), "train")
