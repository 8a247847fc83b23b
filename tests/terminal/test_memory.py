"""Free memory, and errors that report a lack of it."""

import errno
import subprocess

import pytest
import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.terminal import memory

GB = 10**9


@pytest.fixture
def kernel(monkeypatch):
    """Files of the kernel by their paths; there are no others."""
    files = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    8000000 kB\n", "/proc/self/status": "VmSize: 1000 kB\n"}
    monkeypatch.setattr(memory, "_read", lambda path: files.get(path, ""))
    return files


def test_free_memory_is_that_of_the_machine_if_the_system_tells(kernel):
    assert memory.available_memory() == 8_000_000 * 1024
    kernel.clear()
    assert memory.available_memory() is None


@pytest.mark.parametrize(
    ("group", "directory"),
    [
        ("0::/", "/sys/fs/cgroup"),
        ("0::/user.slice/job.scope", "/sys/fs/cgroup/user.slice/job.scope"),
        ("0::/user.slice/job.scope", "/sys/fs/cgroup/user.slice"),
        ("4:cpu:/x\n3:memory:/slurm/job_1", "/sys/fs/cgroup/memory/slurm/job_1"),
        ("3:memory:/docker/abc", "/sys/fs/cgroup/memory"),
    ],
)
def test_free_memory_is_what_the_control_group_leaves(kernel, group, directory):
    limit, usage = memory._CGROUP_FILES["/memory" in directory]
    kernel["/proc/self/cgroup"] = group + "\n"
    kernel[f"{directory}/{limit}"], kernel[f"{directory}/{usage}"] = f"{4 * GB}\n", f"{3 * GB}\n"
    assert memory.available_memory() == GB
    kernel[f"{directory}/memory.stat"] = f"anon 5\nactive_file {GB}\ninactive_file {GB // 2}\ntotal_active_file 9\n"
    assert memory.available_memory() == 2.5 * GB


def test_free_memory_is_never_negative_and_no_limit_is_no_limit(kernel):
    kernel["/sys/fs/cgroup/memory.max"], kernel["/sys/fs/cgroup/memory.current"] = "max\n", "5\n"
    assert memory.available_memory() == 8_000_000 * 1024
    kernel["/sys/fs/cgroup/memory.max"] = "3\n"
    assert memory.available_memory() == 0


def test_free_memory_is_what_ulimit_leaves(kernel, monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda name: (2_000_000, -1))
    assert memory.available_memory() == 2_000_000 - 1000 * 1024


def test_free_memory_of_this_machine_is_a_number_of_bytes():
    assert 10**7 < memory.available_memory() < 10**14


def test_memory_of_a_device(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 100)
    monkeypatch.setattr(memory, "gpu_memory", lambda: 7)
    devices = "/job:localhost/replica:0/task:0/device:{}:0"
    assert memory.device_memory([devices.format("CPU")] * 4) == 25
    assert memory.device_memory([devices.format("GPU")] * 4) == 7
    assert memory.device_memory([devices.format("TPU")]) is None


@pytest.mark.parametrize(
    ("output", "size"),
    [("81559\n", 81559 * 2**20), ("100\n200\n", 200 * 2**20), ("", None), ("[N/A]\n", None), (None, None)],
)
def test_memory_of_gpus_is_that_of_the_largest(monkeypatch, output, size):
    def answer(*args, **kwargs):
        if output is None:
            raise FileNotFoundError("nvidia-smi")
        return subprocess.CompletedProcess([], 0, stdout=output)

    monkeypatch.setattr(subprocess, "run", answer)
    assert memory.gpu_memory.__wrapped__() == size


GRAPH_ERROR = """Graph execution error:

Detected at node Conv2D defined at (most recent call last):
OOM when allocating tensor with shape[8,224] and type float on /job:localhost
\t [[{{node Conv2D}}]]"""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError("std::bad_alloc"), "std::bad_alloc"),
        (MemoryError(), "MemoryError"),
        (MemoryError("Unable to allocate 7 TiB for an array"), "Unable to allocate 7 TiB for an array"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "[Errno 12] Cannot allocate memory"),
        (
            tf.errors.ResourceExhaustedError(None, None, GRAPH_ERROR),
            "OOM when allocating tensor with shape[8,224] and type float on /job:localhost",
        ),
        (tf.errors.InternalError(None, None, "std::bad_alloc"), "std::bad_alloc"),
        (tf.errors.UnknownError(None, None, "MemoryError: none left\nmore"), "MemoryError: none left"),
        (
            tf.errors.AbortedError(None, None, "Status: 1, message: could not create a memory object"),
            "Status: 1, message: could not create a memory object",
        ),
    ],
    ids=str,
)
def test_lack_of_memory_is_one_line_with_what_helps(error, reason):
    with pytest.raises(UserError) as caught, memory.reporting_lack_of_memory("--x=1", "use a smaller one"):
        raise error
    assert str(caught.value) == f"--x=1: does not fit into memory ({reason}); use a smaller one."


@pytest.mark.parametrize(
    "error",
    [
        ValueError("out of memory"),
        OSError(errno.ENOSPC, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "ckpt-1.tmp; No space left on device"),
        tf.errors.AbortedError(None, None, "collective was aborted"),
        UserError("--a=1: cannot be allocated."),
    ],
    ids=str,
)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught, memory.reporting_lack_of_memory("--x=1", "use a smaller one"):
        raise error
    assert caught.value is error
