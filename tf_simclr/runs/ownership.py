"""One owner of an output: a second process is refused, and told which process owns it."""

import contextlib
import datetime
import errno
import logging
import os
import secrets
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tf_simclr.config import UserError
from tf_simclr.files import find_json, one_line, to_json, write_json

LOCK = "owner.lock"
"""Name of the lock of a whole directory."""
_LOG = logging.getLogger("tf_simclr")
# Errors of a file system without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# The time between two signs of life of an owner, and after which a silent one counts as dead.
_BEAT_SECONDS, _SILENT_SECONDS = 20.0, 90.0
_POLL_SECONDS = 2.0
_OWNER = {"host": str, "process": int, "since": str, "command": str}


class _LockedError(Exception):
    """Somebody else has the lock."""


@contextlib.contextmanager
def owning(lock: str, flag: str, value: str | None, *, patience: float = 0) -> Iterator[None]:
    """Keeps other processes away from an output while the block runs.

    The system locks a file for this process, and unlocks it however the process ends, on this machine and on network
    file systems that share locks. Without such locks (buckets, some network file systems) the owner rewrites the file
    every 20 seconds; if it does not change for 90 seconds, its owner is dead.

    Args:
        lock: Path of that file. Its directory is made, and deleted again if nothing else is written into it.
        flag: The flag that named the output, for the message.
        value: Its value.
        patience: Seconds to wait for another owner to end.

    Raises:
        UserError: Another process owns the output.
        OSError, tf.errors.OpError: The lock cannot be written.
    """
    made = _make_directories(os.path.dirname(lock) or ".")
    deadline = time.monotonic() + patience
    try:
        with contextlib.ExitStack() as stack:
            while not _enters(stack, lock):
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"--{flag}={value}: another process writes there ({_describe(lock)}); wait until it ends, or "
                        f"use another --{flag}."
                    )
                time.sleep(_POLL_SECONDS)
            yield
    finally:
        for directory in made:
            with contextlib.suppress(OSError):  # It is not empty.
                os.rmdir(directory)


def _enters(stack: contextlib.ExitStack, lock: str) -> bool:
    """Takes the lock, which closing the stack releases; returns whether it was free."""
    try:
        if "://" in lock or not stack.enter_context(_system_lock(lock)):
            stack.enter_context(_heartbeat(lock))
    except _LockedError:
        return False
    return True


@contextlib.contextmanager
def _system_lock(path: str) -> Iterator[bool]:
    """Holds the system's lock of a file; yields whether there are locks; raises _LockedError if another holds it."""
    descriptor = _open_locked(path)
    if descriptor is None:
        yield False
        return
    try:
        with contextlib.suppress(OSError):  # The lock holds on a full disk too.
            os.ftruncate(descriptor, 0)
            os.write(descriptor, to_json(_this_process()).encode())
        yield True
    finally:
        with contextlib.suppress(OSError):
            os.remove(path)  # Before it is unlocked: afterwards it may be the next owner's.
        os.close(descriptor)


def _open_locked(path: str) -> int | None:
    """Returns the descriptor of a locked file; None if there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows.
        return None
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:  # Another owner has ended, and deleted the directory that it had made.
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise _LockedError from error
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise
            return None
        os.close(descriptor)  # The owner has deleted the file in the meantime.


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _heartbeat(path: str) -> Iterator[None]:
    """Holds a lock by rewriting its file; raises _LockedError if another process does so."""
    from tensorflow.io import gfile

    own = _this_process() | {"token": secrets.token_hex(8)}
    _wait_for_silence(path)
    write_json(path, own | {"beat": 0})
    time.sleep(_POLL_SECONDS)  # Of two that write at the same time, the second one stays.
    if not _is_of(path, own):
        raise _LockedError
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, own, ended.wait), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        with contextlib.suppress(Exception):  # The lock is silent from now on.
            if _is_of(path, own):
                gfile.remove(path)


def _wait_for_silence(path: str) -> None:
    """Returns when no living process holds a lock; raises _LockedError if one does."""
    first = find_json(path)
    if first is None:
        return
    _LOG.info("%s: there was another process (%s); waiting to see whether it is alive.", path, _describe(path))
    deadline = time.monotonic() + _SILENT_SECONDS
    while time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        now = find_json(path)
        if now is None:
            return
        if now != first:
            raise _LockedError


def _beat(path: str, own: dict[str, Any], wait: Callable[[float], bool]) -> None:
    beat = 0
    while not wait(_BEAT_SECONDS):
        beat += 1
        with contextlib.suppress(Exception):  # If the file is out of reach, the next beat writes it.
            if not _is_of(path, own):
                _LOG.warning("%s: %s took this over; end one of the two.", path, _describe(path))
                return
            write_json(path, own | {"beat": beat})


def _is_of(path: str, own: dict[str, Any]) -> bool:
    return bool((find_json(path, {str: object}) or {}).get("token") == own["token"])


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": shlex.join(sys.argv),
    }


def _describe(path: str) -> str:
    owner = find_json(path, _OWNER)
    if owner is None:
        return "which has not yet said what it is"
    return one_line("host {host}, process {process}, since {since}: {command}".format(**owner))


def _make_directories(directory: str) -> list[str]:
    """Makes a directory; returns the new ones, which may be deleted again, the lowest first."""
    if "://" in directory:
        from tensorflow.io import gfile

        gfile.makedirs(directory)
        return []
    made = []
    above = os.path.abspath(directory)
    while not os.path.lexists(above):
        made.append(above)
        above = os.path.dirname(above)
    os.makedirs(directory, exist_ok=True)
    return made
