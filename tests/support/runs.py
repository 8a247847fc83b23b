"""Tiny runs on the digits: seconds long, shared between tests where they only look at one."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import pytest
import tensorflow as tf

import tf_simclr
from exports.export import SavedModelExport
from flags.convert import parse_command_line
from tf_simclr.config import ExperimentConfig, SemiSupervisedConfig, UserError
from tf_simclr.training.loop import LoopEvent

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TOTAL_STEPS = 6
TINY = {
    "dataset": "digits",
    "eval_split": "test",
    "image_size": 8,
    "resnet_depth": 10,
    "width_multiplier": 0.125,
    "proj_out_dim": 16,
    "use_blur": False,
    "use_flip": False,
    "color_jitter_strength": 0,
    "random_rotation": 15,
    "train_batch_size": 32,
    "eval_batch_size": 150,
    "train_steps": TOTAL_STEPS,
    "checkpoint_steps": 2,
    "warmup_epochs": 0.1,
    "temperature": 0.2,
    # Tests depend on no choice of the recipe.
    "labels_per_class": 0,
    "ft_proj_selector": 0,
}


def tiny_arguments(model_dir, **flags) -> list[str]:
    """The command line of a tiny run; a flag that is None is left out."""
    values = TINY | {"model_dir": model_dir} | flags
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def tiny_config(model_dir, **flags) -> ExperimentConfig:
    return parse_command_line(tiny_arguments(model_dir, **flags))[0]


# Of the digits recipe, which may choose others, the steps of a tiny run take nothing.
WHOLE = {
    "mode": "semi_supervised",
    "train_steps": 2,
    "checkpoint_steps": 1,
    "labels_per_class": 4,
    "ft_proj_selector": 1,
    "num_proj_layers": 2,
    "proj_head_mode": "nonlinear",
    "optimizer": "momentum",
    "learning_rate": 0.05,
    "weight_decay": 1e-4,
}


def whole_config(model_dir, *arguments, **flags) -> SemiSupervisedConfig:
    """All steps of a tiny run; `arguments` are more of the command line, such as flags of one step."""
    student = ("--distill.width_multiplier=0.0625", "--distill.num_proj_layers=1")
    return parse_command_line([*tiny_arguments(model_dir, **(WHOLE | flags)), *student, *arguments])[0]


def run_program(*arguments, timeout=120, **options) -> subprocess.CompletedProcess:
    """Runs `python run.py` in a process of its own."""
    command = [sys.executable, "run.py", *map(str, arguments)]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout, check=False, **options
    )


def read_tensors(checkpoint) -> dict:
    """All tensors of a checkpoint, those of the optimizer too."""
    reader = tf.train.load_checkpoint(str(checkpoint))
    names = [name for name in reader.get_variable_to_shape_map() if not name.startswith("_CHECKPOINT")]
    return {name: reader.get_tensor(name) for name in names}


def differing_tensors(checkpoint, other) -> list[str]:
    """Names of the tensors that are not the same to the bit in two checkpoints."""
    ours, theirs = read_tensors(checkpoint), read_tensors(other)
    names = ours.keys() | theirs.keys()
    return sorted(
        name
        for name in names
        if name not in ours or name not in theirs or ours[name].tobytes() != theirs[name].tobytes()
    )


def free_addresses(count) -> tuple[str, ...]:
    """Addresses on this machine where nothing listens, below the ports that outgoing connections are given."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            port = random.SystemRandom().randrange(12000, 32000)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
    return tuple(f"127.0.0.1:{port}" for port in ports)


def run_workers(commands, directory, timeout=300) -> list[int]:
    """Runs processes that know each other by TF_CONFIG, and returns how they ended.

    In a command `{index}` stands for the number of its worker, whose output is in `worker<index>.log`.
    """
    addresses = free_addresses(len(commands))
    with contextlib.ExitStack() as stack:
        processes = []
        for index, command in enumerate(commands):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = os.environ | {"TF_CONFIG": json.dumps(task), "TF_CPP_MIN_LOG_LEVEL": "3"}
            log = stack.enter_context(open(directory / f"worker{index}.log", "w"))
            arguments = [part.format(index=index) for part in command]
            process = subprocess.Popen(arguments, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
            stack.callback(process.kill)
            processes.append(process)
        return [process.wait(timeout=timeout) for process in processes]


def refusal(config: ExperimentConfig) -> str:
    """The one line with which a run is refused."""
    with pytest.raises(UserError) as error:
        tf_simclr.train_and_evaluate(config)
    message = str(error.value)
    assert "\n" not in message
    return message


def write_images(folder, count, size=10, seed=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        image = rng.integers(0, 256, (size, size + 2, 3), dtype=np.uint8)
        (folder / f"{number:03}.png").write_bytes(tf.io.encode_png(image).numpy())
    return folder


@dataclasses.dataclass
class FinishedRun:
    """A run, trained, evaluated and exported."""

    directory: pathlib.Path
    config: ExperimentConfig | SemiSupervisedConfig
    result: dict
    events: list[LoopEvent]

    def files(self) -> dict[str, bytes]:
        """All files but TensorBoard's."""
        return {
            str(path.relative_to(self.directory)): path.read_bytes()
            for path in sorted(self.directory.rglob("*"))
            if path.is_file() and "tfevents" not in path.name
        }

    def read_json(self, name: str) -> dict:
        return json.loads((self.directory / name).read_text())


_KEPT = []  # Directories live as long as the tests.


@functools.cache
def finished_run() -> FinishedRun:
    """The one run that many tests look at; they must not change its directory."""
    _KEPT.append(tempfile.TemporaryDirectory())
    directory = pathlib.Path(_KEPT[-1].name) / "run"
    config = tiny_config(directory)
    events: list[LoopEvent] = []
    result = tf_simclr.train_and_evaluate(config, [SavedModelExport(str(directory)), events.append])
    return FinishedRun(directory, config, result, events)


@contextlib.contextmanager
def eagerly():
    """Runs what is compiled otherwise step by step, which is faster for two steps."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Even though the `tf.config.experimental_run_functions_eagerly`")
        tf.config.run_functions_eagerly(True)
        try:
            yield
        finally:
            tf.config.run_functions_eagerly(False)


@functools.cache
def finished_whole() -> FinishedRun:
    """The one run of the whole method that many tests look at; they must not change its directory."""
    _KEPT.append(tempfile.TemporaryDirectory())
    directory = pathlib.Path(_KEPT[-1].name) / "whole"
    config = whole_config(directory)
    events: list[LoopEvent] = []
    with eagerly():
        result = tf_simclr.semi_supervised(config, lambda step: [events.append])
    return FinishedRun(directory, config, result, events)
