"""Free memory of this machine, and errors that report a lack of it."""

import contextlib
import errno
import functools
import os
import re
import subprocess
from collections.abc import Iterator, Sequence

from tf_simclr.config import UserError
from tf_simclr.files import one_line

_CGROUPS = "/sys/fs/cgroup"
# Limit and use, in both versions of control groups.
_CGROUP_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
_FILE_CACHE = re.compile(r"^(?:in)?active_file (\d+)$", re.MULTILINE)
_SIGNS = re.compile(r"\bOOM\b|bad_alloc|out of memory|MemoryError|allocat|could not create a memory", re.IGNORECASE)


def available_memory() -> int | None:
    """Returns the bytes that this process can still take; None if the system does not tell.

    This is the least of the machine's memory without swap, of what its control groups (containers, Slurm, systemd)
    leave, and of what `ulimit -v` leaves.
    """
    found = [_number("/proc/meminfo", r"^MemAvailable:\s+(\d+) kB$", 1024), _left_by_ulimit()]
    found += [_left_by_cgroup(directory) for directory in _cgroup_directories()]
    return min((max(value, 0) for value in found if value is not None), default=None)


def device_memory(devices: Sequence[str]) -> int | None:
    """Returns the bytes that each device of this process can take; None if they are not known.

    Args:
        devices: their names in TensorFlow, all of one kind.
    """
    if "CPU" in devices[0]:
        available = available_memory()
        return None if available is None else available // len(devices)
    return gpu_memory() if "GPU" in devices[0] else None


@functools.cache
def gpu_memory() -> int | None:
    """Returns the bytes of the largest GPU of this machine; None if `nvidia-smi` does not tell."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.split()
        return max(int(line) for line in lines) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


@contextlib.contextmanager
def reporting_lack_of_memory(what: str, fix: str) -> Iterator[None]:
    """Turns an error about lack of memory into one line.

    Args:
        what: the flag with its value that takes the memory.
        fix: what to use instead.

    Raises:
        UserError: if the block needs more memory than there is.
    """
    try:
        yield
    except Exception as error:
        if not lacks_memory(error):
            raise
        raise UserError(f"{what}: does not fit into memory ({reason_of(error)}); {fix}.") from error


def lacks_memory(error: BaseException) -> bool:
    """Returns whether an error of Python, NumPy or TensorFlow reports a lack of memory."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # A full disk is a ResourceExhaustedError too. What TensorFlow's libraries throw has other kinds.
    is_tensorflow = any(kind.__name__ == "OpError" for kind in type(error).__mro__)
    return is_tensorflow and "No space left" not in str(error) and _SIGNS.search(str(error)) is not None


def reason_of(error: BaseException) -> str:
    """Returns the line of an error's message that mentions memory."""
    lines = [line.strip() for line in str(error).splitlines()]
    return one_line(next(filter(_SIGNS.search, lines), ""))[:200] or type(error).__name__


def _cgroup_directories() -> Iterator[str]:
    """Yields the control groups of this process that may limit its memory, and those around them."""
    yield _CGROUPS
    yield os.path.join(_CGROUPS, "memory")
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = os.path.join(_CGROUPS, controllers)
            parts = [part for part in path.split("/") if part not in ("", "..")]
            for end in range(1, len(parts) + 1):
                yield os.path.join(root, *parts[:end])


def _left_by_cgroup(directory: str) -> int | None:
    for limit_file, usage_file in _CGROUP_FILES:
        limit = _number(os.path.join(directory, limit_file), r"^(\d+)$")
        usage = _number(os.path.join(directory, usage_file), r"^(\d+)$")
        if limit is not None and usage is not None:
            cached = sum(map(int, _FILE_CACHE.findall(_read(os.path.join(directory, "memory.stat")))))
            return limit - max(usage - cached, 0)
    return None


def _left_by_ulimit() -> int | None:
    try:
        import resource
    except ImportError:  # Windows has none.
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _number("/proc/self/status", r"^VmSize:\s+(\d+) kB$", 1024)
    return None if limit == resource.RLIM_INFINITY or used is None else limit - used


def _number(path: str, pattern: str, unit: int = 1) -> int | None:
    match = re.search(pattern, _read(path), re.MULTILINE)
    return None if match is None else int(match[1]) * unit


def _read(path: str) -> str:
    """Returns the text of a file of the kernel; nothing if it is not there."""
    try:
        with open(path) as file:
            return file.read()
    except (OSError, ValueError):
        return ""
