"""Standard error without the messages of TensorFlow that are no errors."""

import logging
import subprocess
import sys

import pytest

from tests.support.runs import REPOSITORY
from tf_simclr.terminal.noise import NOISE, without_noise


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        "I0000 00:00:1796070803.614028   24835 device_compiler.h:186] Compiled cluster using XLA!  This line",
        "W0000 00:00:1796070943.985201     657 dataset.cc:997] Input of GeneratorDatasetOp::Dataset will not be",
        "2026-11-30 20:33:18.163918: I tensorflow/core/util/port.cc:113] oneDNN custom operations are on.",
        "2026-11-30 20:33:18.163918: E external/local_xla/xla/x.h:177] SetPriority unimplemented for this stream.",
        "E0000 00:00:1796070821.969510   25966 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error",
        "To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow",
        "Improper call to JPEG library in state 201",
        "Corrupt JPEG data: 6 extraneous bytes before marker 0x3c",
        "Unsupported marker type 0x3c",
        "Bogus Huffman table definition",
        "Premature end of JPEG file",
    ],
)
def test_noise_is_known(line):
    assert NOISE.match(line.encode())


@pytest.mark.parametrize(
    "line",
    [
        "error: --temperature=0.0: divides the logits",
        "free(): invalid size",
        "Fatal Python error: Segmentation fault",
        "2026-11-30 20:33:18.163918: E tensorflow/core/framework/op.cc:12] something else",
        "2026-11-30 20:33:18.163918: F tensorflow/core/framework/tensor.cc:733] Check failed: 1 == ndims",
        "Traceback (most recent call last):",
        "an image: Corrupt JPEG data: in the middle of a line",
    ],
)
def test_all_else_comes_through(line):
    assert not NOISE.match(line.encode())


SCRIPT = r"""
import os, sys
from tf_simclr.terminal.noise import without_noise
with without_noise(), without_noise():
    os.write(2, b"Premature end of JPEG file\nun")
    os.write(2, b"known\n")
    print("own", file=sys.stderr)
    if sys.argv[1:]: os.abort()
os.write(2, b"Premature end of JPEG file\n")
"""


def run_filtered(*arguments, level="3"):
    command, environment = [sys.executable, "-c", SCRIPT, *arguments], {"TF_CPP_MIN_LOG_LEVEL": level}
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=environment).stderr


def test_filter_leaves_out_noise_and_ends_with_its_block():
    lines = run_filtered().splitlines()
    assert sorted(lines[:2]) == ["own", "unknown"]
    assert lines[2:] == ["Premature end of JPEG file"]


def test_last_words_of_a_crash_come_through():
    assert sorted(run_filtered("abort").splitlines()) == ["own", "unknown"]


def test_user_who_sets_the_level_sees_everything():
    assert "Premature end" in run_filtered("abort", level="0")


def test_loggers_of_tensorflow_are_kept_to_warnings_for_the_time():
    """Whoever shows all information sees ours, and no lines of thousands of characters of an export."""
    logger = logging.getLogger("absl")
    previous = logger.level
    logger.setLevel(logging.INFO)
    try:
        with without_noise():
            assert not logger.isEnabledFor(logging.INFO)
            assert logger.isEnabledFor(logging.WARNING)
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(previous)
