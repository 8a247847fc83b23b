"""Directories of exports: written whole or not at all; nothing is deleted that this program did not write."""

import os
import pathlib
import re
import shutil

import pytest
import tensorflow as tf

from exports import retention
from exports.retention import MARKER, write_export
from tf_simclr.config import UserError


def write(folder, step, *, keep=1, overwrite=False, content="x"):
    def fill(directory):
        (pathlib.Path(directory) / "weights").write_text(content)

    return pathlib.Path(write_export(str(folder), step, fill, keep=keep, overwrite=overwrite))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("keep", "left"), [(1, ["40"]), (2, ["300", "40"]), (3, ["200", "300", "40"]), (9, None)])
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


@pytest.mark.parametrize("name", ["007", "+7", "7_0", "\u0667"])
def test_name_that_is_not_the_number_of_a_step_is_not_taken_for_one(tmp_path, name):
    """Somebody has renamed such an export, and anything may be beside it."""
    write(tmp_path, 1).rename(tmp_path / name)
    write(tmp_path, 9)
    assert names(tmp_path) == sorted([name, "9"])


def test_what_a_killed_process_has_left_is_deleted(tmp_path):
    for name in ("8.123.tmp", "8.0123456789abcdef.tmp", "mine.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MARKER).write_text('{"global_step": 8}')
    (tmp_path / "9.123.tmp").mkdir()  # Without a marker it may be anybody's.
    write(tmp_path, 10)
    assert names(tmp_path) == ["10", "9.123.tmp", "mine.tmp"]


def test_second_process_is_refused_while_an_export_is_written(tmp_path):
    def fill(directory):
        with pytest.raises(UserError, match=f"--model_dir={tmp_path}: another process writes there") as error:
            write(tmp_path / "saved_model", 6, keep=2)
        assert f"process {os.getpid()}, since" in str(error.value)

    write_export(str(tmp_path / "saved_model"), 7, fill, keep=2, overwrite=False)
    assert names(tmp_path / "saved_model") == ["7"]


def test_export_that_was_deleted_while_it_was_written_is_not_published(tmp_path):
    def fill(directory):
        shutil.rmtree(directory)
        pathlib.Path(directory).mkdir()

    with pytest.raises(UserError, match="changed or deleted while it was written; export again"):
        write_export(str(tmp_path), 7, fill, keep=1, overwrite=False)
    assert names(tmp_path) == []


def test_what_comes_there_while_an_export_is_written_is_not_replaced(tmp_path):
    def fill(directory):
        (tmp_path / "7").mkdir()

    with pytest.raises(UserError, match="not written by tf_simclr"):
        write_export(str(tmp_path), 7, fill, keep=1, overwrite=True)
    assert names(tmp_path) == ["7"]


def test_old_export_that_cannot_be_deleted_is_named_and_the_others_go(tmp_path, log, monkeypatch):
    for step in (1, 2, 3):
        write(tmp_path, step, keep=9)

    def rmtree(path, original=shutil.rmtree):
        if path.endswith("2"):
            raise PermissionError("not yours")
        original(path)

    monkeypatch.setattr(retention.shutil, "rmtree", rmtree)
    assert write(tmp_path, 4) == tmp_path / "4"
    assert names(tmp_path) == ["2", "4"]
    assert log.messages == [f"{tmp_path / '2'}: cannot be deleted (not yours); delete it yourself."]


@pytest.mark.parametrize("stop_at", [1, 2], ids=["the old one is moved away", "the new one is put there"])
def test_replacing_an_export_never_leaves_neither(tmp_path, monkeypatch, stop_at):
    """A killed process leaves either, and an interrupted one the old one in its place."""
    write(tmp_path, 1, content="old")
    found = []

    def rename(source, target, original=tf.io.gfile.rename):
        found.append(sorted(path.read_text() for path in tmp_path.glob("1*/weights")))
        if len(found) == stop_at:
            raise KeyboardInterrupt
        original(source, target)

    monkeypatch.setattr(retention.tf.io.gfile, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 1, overwrite=True, content="new")
    assert all(contents == ["new", "old"] for contents in found)
    assert names(tmp_path) == ["1"]
    assert (tmp_path / "1" / "weights").read_text() == "old"


def test_existing_export_is_replaced_on_demand(tmp_path):
    path = write(tmp_path / "saved_model", 1)
    assert path == tmp_path / "saved_model" / "1"
    assert names(path) == sorted([MARKER, "weights"])
    with pytest.raises(UserError, match=re.escape(f"{path}: exists already; replace it with --overwrite=True.")):
        write(tmp_path / "saved_model", 1, content="new")
    assert (path / "weights").read_text() == "x"
    write(tmp_path / "saved_model", 1, overwrite=True, content="new")
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
    [tf.errors.ResourceExhaustedError(None, None, "full, and\nmore"), OSError("no"), KeyboardInterrupt()],
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
