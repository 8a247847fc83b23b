"""One owner of an output. Within a process two owners keep each other away as two processes do."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from tf_simclr.config import UserError
from tf_simclr.runs import ownership
from tf_simclr.runs.ownership import owning

HOLD = """
import sys, time
from tf_simclr.runs.ownership import owning
with owning(sys.argv[1], "model_dir", "runs/a"):
    print("owned", flush=True)
    time.sleep(60)
"""


def own(path):
    return owning(str(path), "model_dir", "runs/a")


@pytest.fixture
def without_locks(monkeypatch):
    """A file system without locks, where all is faster."""
    monkeypatch.setattr(ownership, "_open_locked", lambda path: None)
    monkeypatch.setattr(ownership, "_BEAT_SECONDS", 0.01)
    monkeypatch.setattr(ownership, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(ownership, "_SILENT_SECONDS", 0.3)


def test_second_process_is_told_who_owns_it_and_the_killed_one_is_not_in_the_way(tmp_path):
    lock = tmp_path / "owner.lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "owned\n"
        with pytest.raises(UserError) as error, own(lock):
            pass
        os.kill(process.pid, signal.SIGKILL)
    message = str(error.value)
    assert message.startswith("--model_dir=runs/a: another process writes there (host ")
    assert f", process {process.pid}, since 2" in message
    assert message.endswith(f" {lock}); wait until it ends, or use another --model_dir.")
    with own(lock):
        assert json.loads(lock.read_text())["process"] == os.getpid()


def test_owner_leaves_nothing_not_even_the_directories_that_it_made(tmp_path):
    with own(tmp_path / "a" / "b" / "owner.lock"):
        assert os.listdir(tmp_path / "a" / "b") == ["owner.lock"]
    assert os.listdir(tmp_path) == []
    with own(tmp_path / "a" / "owner.lock"):
        (tmp_path / "a" / "result").touch()
    assert os.listdir(tmp_path / "a") == ["result"]


def test_patient_one_waits_for_the_owner_to_end(tmp_path, monkeypatch):
    lock, first = str(tmp_path / "made" / "lock"), contextlib.ExitStack()  # The first deletes what it made.
    first.enter_context(own(lock))
    monkeypatch.setattr(ownership.time, "sleep", lambda seconds: first.close())
    with owning(lock, "model_dir", "runs/a", patience=60):
        assert os.path.exists(lock)


def test_lock_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), own(tmp_path / "file" / "owner.lock"):
        pass


def test_without_locks_a_living_owner_is_respected(tmp_path, without_locks):
    lock = tmp_path / "owner.lock"
    with own(lock), pytest.raises(UserError, match=f"process {os.getpid()}, since"), own(lock):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "content", ['{"host": "gone", "process": 1, "since": "2020", "command": "x", "beat": 3}', "", "{"]
)
def test_without_locks_a_silent_owner_is_replaced(tmp_path, without_locks, content):
    lock = tmp_path / "owner.lock"
    lock.write_text(content)
    with own(lock):
        assert json.loads(lock.read_text())["process"] == os.getpid()
    assert os.listdir(tmp_path) == []


def test_without_locks_of_two_at_the_same_time_the_last_to_write_stays(tmp_path, without_locks, monkeypatch):
    lock = tmp_path / "owner.lock"
    monkeypatch.setattr(ownership.time, "sleep", lambda seconds: lock.write_text('{"token": "other"}'))
    with pytest.raises(UserError), own(lock):
        pass
    assert lock.read_text() == '{"token": "other"}'
