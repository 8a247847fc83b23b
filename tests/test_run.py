"""The program from outside: exit codes, one-line errors that leave nothing behind, output of a whole run."""

import os
import signal
import subprocess
import sys
import textwrap
import types

import pytest
import tensorflow as tf

import run
import tf_simclr
from exports.export import export_actions
from tests.support.runs import REPOSITORY, eagerly, finished_run, run_program, tiny_arguments, tiny_config
from tf_simclr.config import PreemptedError
from tf_simclr.terminal.interrupts import interrupts_tell

# ---- Mistakes of the user


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["\x1b[2J\nerror: x"], r"\x1b[2J\nerror: x: not a flag;"),
        (["--temperature=0"], "--temperature=0.0: use a number above 0"),
        (["--train_split=trian"], "--train_split=trian: digits has the split(s) train, test; use one of them"),
        (["--use_tpu"], "--use_tpu=True: no TPU answers"),
    ],
)
def test_mistake_is_one_line_and_leaves_nothing(capsys, tmp_path, arguments, message):
    assert run.main([*tiny_arguments(tmp_path / "run"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.endswith((".\n", "?\n"))
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_checkpoint_of_another_network_leaves_nothing(capsys, tmp_path):
    start = f"--checkpoint={finished_run().directory}"
    assert run.main([*tiny_arguments(tmp_path / "run", proj_out_dim=32), start]) == 2
    assert capsys.readouterr().err.endswith("; it was written with --proj_out_dim=16 (here 32).\n")
    assert not (tmp_path / "run").exists()


TRAIN = "--train_mode=pretrain --image_size=8"


@pytest.mark.parametrize(
    "command",
    [
        f"{TRAIN} --model_dir=s3://bucket/run",
        f"{TRAIN} --checkpoint=s3://bucket/run",
        f"{TRAIN} --data_dir=s3://bucket",
        f"{TRAIN} --dataset=digits,tfrecord:s3://bucket/a*",
        "--mode=eval --model_dir=s3://bucket/run --dataset=digits",
        "--mode=export --model_dir=s3://bucket/run",
        "--mode=import --checkpoint=s3://bucket/run --model_dir=x",
        "--mode=embed --checkpoint=s3://bucket/run --output=x.npz --dataset=digits",
        "--mode=knn_eval --checkpoint=x --output=s3://bucket/run.json --dataset=digits",
        "--mode=transfer --checkpoint=s3://bucket/run --datasets=digits",
        "--mode=robustness --checkpoint=s3://bucket/run",
        "--mode=preview --dataset=tfrecord:s3://bucket/a* --output=x.png",
    ],
)
def test_address_that_tensorflow_cannot_open_is_one_line(capsys, command):
    assert run.main(command.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    (argument,) = [argument for argument in command.split() if "s3://" in argument]
    assert line.startswith(f"error: {argument}: TensorFlow has no file system for s3:// here; use a path")


# ---- Keras 3


@pytest.mark.parametrize(("version", "is_refused"), [("3.4.1", True), ("2.15.0", False), (None, False)])
def test_keras_3_already_loaded_is_refused(monkeypatch, version, is_refused):
    keras = types.SimpleNamespace(__version__=version) if version else types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "tensorflow", types.SimpleNamespace(keras=keras))
    monkeypatch.setitem(sys.modules, "keras", types.ModuleType("keras"))
    if not is_refused:
        return tf_simclr._refuse_keras_3()
    with pytest.raises(ImportError, match=r"import tf_simclr first, or set .* TF_USE_LEGACY_KERAS=1"):
        tf_simclr._refuse_keras_3()


@pytest.mark.slow
@pytest.mark.stack
@pytest.mark.skipif(tf.__version__ < "2.16", reason="this TensorFlow has no Keras 3")
def test_keras_3_really_loaded_is_refused():
    script = "import keras, tensorflow; tensorflow.keras.Model; import tf_simclr"
    done = run_python(script, env=os.environ | {"TF_USE_LEGACY_KERAS": "0"})
    assert done.returncode != 0
    assert "ImportError: tf_simclr uses the Keras 2 API, but Keras 3 was already" in done.stderr


# ---- Early ends


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted: nothing was saved since the start."),
        (KeyboardInterrupt("x/ckpt-7 is kept"), 130, "interrupted: x/ckpt-7 is kept."),
        (PreemptedError("saved", signal.SIGTERM), 143, "preempted: saved; the same command goes on from there."),
        (PreemptedError("saved", signal.SIGHUP), 129, "preempted: saved; the same command goes on from there."),
        (PreemptedError("saved", signal.SIGINT), 130, "interrupted: saved; the same command goes on from there."),
        (
            MemoryError("std::bad_alloc"),
            2,
            "error: this command: does not fit into memory (std::bad_alloc); use smaller batches or a smaller network, "
            "or end other programs.",
        ),
    ],
    ids=repr,
)
def test_early_end_is_one_line_with_its_own_status(monkeypatch, capsys, tmp_path, error, status, message):
    def fail(config):
        raise error

    previous = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(run, "dispatch", fail)
    try:
        assert run.main(tiny_arguments(tmp_path)) == status
        if isinstance(error, KeyboardInterrupt):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # No traceback of a second one.
    finally:
        signal.signal(signal.SIGINT, previous)
    assert capsys.readouterr().err == f"{message}\n"


@pytest.mark.parametrize(
    ("message", "saved", "expected"), [((), "x", "x"), ((), None, ""), (("its own",), "x", "its own")]
)
def test_interrupt_says_what_was_saved_unless_it_knows_better(message, saved, expected):
    with pytest.raises(KeyboardInterrupt) as caught, interrupts_tell(lambda: saved):
        raise KeyboardInterrupt(*message)
    assert str(caught.value) == expected


# ---- Processes of their own


def run_python(script, **options):
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False, **options)


def test_wrong_flag_fails_before_tensorflow_is_loaded():
    done = run_python(
        """
        import sys, run
        assert run.main(["--temperature=0"]) == 2
        assert run.main(["--help"]) == 0
        assert run.main(["--help=dta"]) == 2
        assert run.main(["--version"]) == 0
        assert "tensorflow" not in sys.modules and "numpy" not in sys.modules
        """
    )
    assert done.returncode == 0, done.stderr
    wrong, unknown = done.stderr.splitlines()
    assert wrong == "error: --temperature=0.0: use a number above 0; the paper uses 0.1."
    assert unknown.startswith("error: --help=dta: no such group or flag; use one of run, data, ")
    assert "  --temperature: a number above 0" in done.stdout
    assert done.stdout.endswith(f"\ntf_simclr {tf_simclr.__version__}\n")


@pytest.mark.parametrize("package", ["absl", "tensorflow"])
def test_missing_package_is_one_line_with_the_command_that_installs_it(package):
    done = run_python(
        f"""
        import sys
        sys.modules["{package}"] = None
        import run
        sys.exit(run.main(["--mode=pretrain", "--dataset=digits"]))
        """
    )
    assert done.returncode != 0
    assert done.stderr == (
        f"error: the package {package} is not installed; run: python -m pip install -r requirements.txt\n"
    )


def test_program_with_a_wrong_flag_exits_with_an_error():
    done = run_program("--lerning_rate=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --lerning_rate: no such flag; did you mean --learning_rate")


@pytest.mark.parametrize("keep", [0, 1])
def test_run_exports_unless_it_is_switched_off(tmp_path, keep):
    assert len(export_actions(tiny_config(tmp_path, keep_hub_module_max=keep))) == keep


@pytest.mark.slow
def test_eval_beside_training_follows_it_to_the_end(tmp_path, log):
    """A process of its own trains, so that checkpoints appear while the evaluation waits and works."""
    flags = {"train_steps": 40, "checkpoint_steps": 20, "steps_per_loop": 5}
    command = [sys.executable, "run.py", *tiny_arguments(tmp_path / "run", mode="train", **flags)]
    training = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with eagerly():
        status = run.main(tiny_arguments(tmp_path / "run", mode="eval", eval_steps=1, **flags))
    said = training.communicate(timeout=120)[0]
    assert (status, training.returncode) == (0, 0), said
    assert any(message.startswith("Waiting for the first checkpoint") for message in log.messages)
    steps = sorted(int(path.stem.split("_")[1]) for path in (tmp_path / "run").glob("result_*.json"))
    assert steps in ([20, 40], [40])


@pytest.mark.slow
def test_program_trains_evaluates_exports_and_shows_it(tmp_path):
    done = run_program(*tiny_arguments(tmp_path / "run", train_steps=2, checkpoint_steps=0))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Recipe: digits, because of --dataset=digits")
    assert lines[1].startswith("Strategy: one_device (auto: ")
    assert lines[2].startswith("Training images: digits (train): 1347 images, 10 classes")
    for start in ("pretrain on digits (train): 1347 images, 2 steps of 32; ResNet-", "step 1/2 | compiled | loss "):
        assert any(line.startswith(start) for line in lines)
    assert lines[-2].startswith("Result: linear probe top-1 ")
    assert lines[-1].startswith("Report: ")
    assert done.stderr == ""
    assert (tmp_path / "run" / "saved_model" / "2" / "saved_model.pb").exists()
