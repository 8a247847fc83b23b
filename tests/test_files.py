"""Atomic writes, leftovers, JSON of a declared form, and texts of one line."""

import gc
import json
import logging
import os
import re
import sys

import numpy as np
import pytest

from tf_simclr import files
from tf_simclr.files import DamagedFileError, form_problem, list_names, plain_name, read_json, save_npz

FORM = {"name": str, "counts": [files.between(0, 100)], "note?": (str, None), "classes?": {str: float}}


def test_replacing_leaves_the_old_file_and_nothing_else_after_an_error(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(str(path), "old")
    with pytest.raises(ZeroDivisionError), files.replacing(str(path)) as temporary:
        open(temporary, "w").close()
        raise ZeroDivisionError
    assert (os.listdir(tmp_path), path.read_text()) == (["a.txt"], "old")


def test_temporary_names_are_never_the_same_twice_and_are_recognised():
    names = {files.temporary_name("dir/a.json") for _ in range(100)}
    assert len(names) == 100
    assert all(re.fullmatch(rf"dir/a\.json{files.TEMPORARY}", name) for name in names)


def test_json_comes_back_as_written(tmp_path):
    content = {"name": "é\u2028", "counts": [1, 2], "note": None, "classes": {"a": 1, "b": 0.5}}
    files.write_json(str(tmp_path / "a.json"), content)
    assert read_json(str(tmp_path / "a.json"), FORM) == content
    assert read_json(str(tmp_path / "none.json"), FORM) is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe{}", "codec can't decode"),
        (b"[" * 10**6, "nested too deeply"),
        (b'{"name": "a"}', "counts is missing"),
        (b'{"name": 1, "counts": []}', "name is 1, not str"),
        (b'{"name": "a", "counts": [1, 1000]}', r"counts\[1\] is 1000, not an integer from 0 to 100"),
        (b'{"name": "a", "counts": [true]}', "not an integer"),
        (b'{"name": "a", "counts": {}}', "counts is dict, not list"),
        (b'{"name": "a", "counts": [], "note": 3}', "note is 3, not str"),
        (b'{"name": "a", "counts": [], "classes": {"x": NaN}}', "NaN"),
        (b'{"name": "a", "counts": [], "classes": {"x": null}}', r"classes.x is None, not float"),
        (b"[1]", "the content is list, not dict"),
        (b"1" * 5000, "Exceeds the limit|not dict"),
    ],
)
def test_damaged_json_is_one_error_that_names_the_file_and_the_place(tmp_path, content, problem):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=problem) as error:
        read_json(str(path), FORM, fix="delete it")
    assert str(error.value).startswith(f"{path}: ") and str(error.value).endswith("delete it.")
    assert "\n" not in str(error.value)
    assert files.find_json(str(path), FORM) is None


def test_anything_fits_object_and_only_null_fits_none():
    assert form_problem(json.loads('[{"a": null}]'), object) is None
    assert form_problem(None, None) is None
    assert form_problem(0, None) == "the content is 0, not NoneType"


def test_forms_of_names_and_of_the_names_in_an_object():
    assert all(map(plain_name, ["a", "a.b", "...", "train"]))
    assert not any(map(plain_name, ["", ".", "..", "a/b", "/a", "..\\a", "a\0", 3, None]))
    assert form_problem({"a": 1}, {plain_name: int}) is None
    problem = form_problem({"../a": 1}, {plain_name: int}, "x")
    assert problem == "a name in x is '../a', not a name without a directory"


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "too large"])
def test_only_a_regular_file_of_some_size_is_read(tmp_path, kind, monkeypatch):
    path = "/dev/zero" if kind == "device" else str(tmp_path / "a.json")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        os.mkdir(path)
    elif kind == "too large":
        (tmp_path / "a.json").write_text('"xyz"')
        monkeypatch.setattr(files, "_MAX_JSON_BYTES", 4)
    with pytest.raises(DamagedFileError, match=r"not a regular file|larger than"):
        read_json(path)


def test_log_holds_no_control_characters(caplog):
    logging.getLogger("tf_simclr").warning("%s: 100%% unreadable", "a\x1b]0;title\x07\n\u202eb\udcff.png")
    assert caplog.messages == [r"a\x1b]0;title\x07\n\u202eb\udcff.png: 100% unreadable"]


def test_texts_for_the_terminal_hold_no_control_characters():
    assert files.one_line("a\x1b[31m\nb\u2028é") == r"a\x1b[31m\nb\u2028é"
    assert len(files.one_line("x" * 10**6)) < 600
    assert files.first_line(ValueError("\n one\ntwo")) == "one"
    assert files.first_line(ValueError()) == "ValueError"
    # The reason stands behind the path.
    assert files.first_line(OSError(f"{'long/' * 300}ckpt-5; No space left on device")).endswith(
        "; No space left on device"
    )


def test_a_number_has_its_noun_in_singular_or_plural():
    texts = [files.counted(number, noun) for number, noun in ((1, "image"), (0, "image"), (3, "class"))]
    assert texts == ["1 image", "0 images", "3 classes"]


def test_arrays_are_written_as_numpy_does(tmp_path):
    arrays = {"features": np.arange(6.0).reshape(2, 3), "names": np.array(["a", "bc"])}
    save_npz(str(tmp_path / "ours.npz"), arrays)
    np.savez(tmp_path / "theirs.npz", **arrays)
    assert (tmp_path / "ours.npz").read_bytes() == (tmp_path / "theirs.npz").read_bytes()


@pytest.mark.slow
def test_arrays_on_a_full_disk_are_one_error_and_nothing_else(monkeypatch):
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    for size in (1, 10**6):
        with pytest.raises(OSError, match="No space left on device"):
            save_npz("/dev/full", {"zeros": np.zeros(size)})
        with pytest.raises(OSError, match="No space left on device"), open("/dev/full", "wb") as file:
            save_npz(file, {"zeros": np.zeros(size)})
    gc.collect()
    assert ignored == []


def test_leftovers_are_deleted_by_name_and_age_and_nothing_else(tmp_path):
    ours = ["a.json.0123456789abcdef.tmp", "a.json.1234.tmp", "run [a].npz.0123456789abcdef.tmp"]
    others = ["a.json", "b.json.1234.tmp", "a.json.tmp", "a.json.xyz.tmp", "xa.json.1234.tmp"]
    for name in [*ours[:2], *others]:
        (tmp_path / name).touch()
    (tmp_path / ours[2] / "deep").mkdir(parents=True)
    (tmp_path / "a.json.5678.tmp").symlink_to(tmp_path / "a.json")
    names = r"a\.json|.*\.npz"
    files.delete_leftovers(str(tmp_path), names)
    assert set(list_names(str(tmp_path))) == {*ours, *others, "a.json.5678.tmp"}
    files.delete_leftovers(str(tmp_path), names, min_age=0)
    assert list_names(str(tmp_path)) == sorted([*others, "a.json.5678.tmp"])


def test_paths_match_below_a_directory_that_is_no_pattern(tmp_path):
    for path in ("[a]/labels_1/x", "[a]/labels_2/y", "a/labels_3/z", "[a]/labels_*/w"):
        (tmp_path / path).mkdir(parents=True)
    below = str(tmp_path / "[a]")
    assert files.find_paths(below, "labels_?/[xy]") == [f"{below}/labels_1/x", f"{below}/labels_2/y"]
    assert files.find_paths(below, "labels_*/*") == [f"{below}/labels_*/w"]  # It is there as it is written.
    assert files.find_paths(below, "labels_[!1]/*") == [f"{below}/labels_*/w", f"{below}/labels_2/y"]
    assert files.find_paths(below, "no/*") == files.find_paths(f"{below}/no", "*") == []


def test_names_are_those_of_the_directory_whatever_its_name(tmp_path):
    for name in ("run[1]", "run1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"of {name}").touch()
    assert list_names(str(tmp_path / "run[1]")) == ["of run[1]"]
    assert list_names(str(tmp_path / "none")) == []
    assert list_names(f"file://{tmp_path}/run1") == ["of run1"]
    assert list_names(f"file://{tmp_path}/none") == []
