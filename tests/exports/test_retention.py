"""Directories of exports: whole or not at all; nothing is deleted that this program did not write."""

import pathlib
import re

import pytest
import tensorflow as tf

from exports.retention import MARKER, is_export, write_export
from tf_simclr.config import UserError


def write(folder, step, *, keep=1, overwrite=False, content="x"):
    def fill(directory):
        (pathlib.Path(directory) / "weights").write_text(content)

    return pathlib.Path(write_export(str(folder), step, fill, keep=keep, overwrite=overwrite))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_export_has_its_content_and_a_marker(tmp_path):
    path = write(tmp_path / "saved_model", 7)
    assert path == tmp_path / "saved_model" / "7"
    assert names(path) == sorted([MARKER, "weights"])
    assert is_export(str(path))


@pytest.mark.parametrize(
    ("keep", "left"), [(1, ["40"]), (2, ["300", "40"]), (3, ["200", "300", "40"]), (9, None)]
)
def test_newest_exports_and_this_one_stay(tmp_path, keep, left):
    """Newest by number: 300 is after 40, whatever the order of names."""
    for step in (5, 200, 300):
        write(tmp_path, step, keep=9)
    write(tmp_path, 40, keep=keep)
    assert names(tmp_path) == (left or ["200", "300", "40", "5"])


def test_only_what_this_program_wrote_is_deleted(tmp_path):
    outside = tmp_path / "outside"
    write(outside, 1)
    folder = tmp_path / "saved_model"
    write(folder, 2)
    (folder / "2" / "inside").symlink_to(outside / "1")  # Is deleted, and not what it points to.
    (folder / "1").symlink_to(outside / "1")
    (folder / "3").mkdir()
    (folder / "3" / "weights").write_text("of somebody else")
    (folder / "4").mkdir()
    (folder / "4" / MARKER).symlink_to(outside / "1" / MARKER)
    (folder / "notes").mkdir()
    (folder / "notes" / MARKER).write_text('{"global_step": 3}')
    (folder / "5").write_text("a file")
    (folder / "6").mkdir()
    (folder / "6" / MARKER).write_text("damaged")
    write(folder, 9)
    assert names(folder) == ["1", "3", "4", "5", "6", "9", "notes"]
    assert names(outside / "1") == sorted([MARKER, "weights"])
    assert (folder / "3" / "weights").read_text() == "of somebody else"


def test_folder_that_is_a_symbolic_link_is_written_and_not_cleaned(tmp_path):
    write(tmp_path / "elsewhere", 1)
    (tmp_path / "saved_model").symlink_to(tmp_path / "elsewhere")
    write(tmp_path / "saved_model", 2)
    assert names(tmp_path / "elsewhere") == ["1", "2"]


def test_what_a_killed_process_has_left_is_deleted(tmp_path):
    for name in ("8.123.tmp", "mine.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MARKER).write_text('{"global_step": 8}')
    (tmp_path / "9.123.tmp").mkdir()  # Without a marker it may be anybody's.
    write(tmp_path, 10)
    assert names(tmp_path) == ["10", "9.123.tmp", "mine.tmp"]


def test_export_that_is_there_is_replaced_where_asked(tmp_path):
    path = write(tmp_path, 1)
    with pytest.raises(
        UserError, match=re.escape(f"{path}: exists already; replace it with --overwrite=True.")
    ):
        write(tmp_path, 1, content="new")
    assert (path / "weights").read_text() == "x"
    write(tmp_path, 1, overwrite=True, content="new")
    assert (path / "weights").read_text() == "new"


@pytest.mark.parametrize("kind", ["folder", "link", "dangling link"])
def test_what_this_program_did_not_write_is_never_replaced(tmp_path, kind):
    folder, other = tmp_path / "saved_model", tmp_path / "other"
    folder.mkdir()
    if kind == "folder":
        (folder / "1").mkdir()
    else:
        if kind == "link":
            write(tmp_path, 1)
            (tmp_path / "1").rename(other)
        (folder / "1").symlink_to(other)
    with pytest.raises(UserError, match="not written by tf_simclr; move it away"):
        write(folder, 1, overwrite=True)
    assert names(folder) == ["1"]


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, "disk full, and\nmore"),
        OSError("no"),
        KeyboardInterrupt(),
    ],
    ids=["TensorFlow", "OSError", "Ctrl-C"],
)
def test_export_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path, error):
    write(tmp_path, 1, content="old")

    def fail(directory):
        (pathlib.Path(directory) / "half").write_text("x")
        raise error

    with pytest.raises((UserError, KeyboardInterrupt)) as raised:
        write_export(str(tmp_path), 1, fail, keep=1, overwrite=True)
    assert names(tmp_path) == ["1"]
    assert (tmp_path / "1" / "weights").read_text() == "old"
    if raised.type is UserError:
        assert str(raised.value).startswith(f"--model_dir: cannot write {tmp_path / '1'} (")
        assert "\n" not in str(raised.value)
