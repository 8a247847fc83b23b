"""The program from outside: exit codes, one-line errors that leave nothing behind, killing and going on."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import types

import pytest
import tensorflow as tf

import run
import tf_simclr
from tests.support.runs import REPOSITORY, TOTAL_STEPS, differing_tensors, finished_run, run_program, tiny_arguments
from tf_simclr.config import PreemptedError
from tf_simclr.terminal.interrupts import interrupts_tell


@pytest.fixture
def refused(capsys, tmp_path):
    """Runs a command line that must fail; returns its one line, after a check that nothing was written."""

    def refuse(*arguments, model_dir=tmp_path / "run", **flags):
        assert run.main([*tiny_arguments(model_dir, **flags), *arguments]) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert message.endswith((".\n", "?\n"))
        assert message.count("\n") == 1
        assert not (tmp_path / "run").exists()
        return message.removeprefix("error: ").strip()

    return refuse


def write_png(path, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(tf.zeros([size, size, 3], tf.uint8)).numpy())


# ---- Wrong flags, in process


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lerning_rate=1"], "--lerning_rate: no such flag; did you mean --learning_rate"),
        (["\x1b[2J\nerror: x"], r"\x1b[2J\nerror: x: not a flag;"),
        (["train"], "train: not a flag; flags are written --name=value"),
        (["--temperature=0"], "--temperature=0.0: use a number above 0"),
        (["--train_batch_size=-32"], "--train_batch_size=-32: use at least 1."),
        (["--train_batch_size=1"], "--train_batch_size=1: the contrastive loss needs at least 2"),
        (["--image_size=0"], "--image_size=0: use at least 8 pixels."),
        (["--ft_proj_selector=4"], "--ft_proj_selector=4: the projection head"),
        (["--flagfile=no.flags"], "--flagfile=no.flags: cannot be read"),
    ],
)
def test_wrong_flag_is_refused(refused, arguments, message):
    assert refused(*arguments).startswith(message)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("model_dir", "s3://bucket/run"),
        ("checkpoint", "hdfs://host/run"),
        ("data_dir", "s3://bucket"),
        ("dataset", "tfrecord:s3://bucket/images"),
        ("dataset", "digits,tfrecord:s3://bucket/a*"),
        ("eval", "s3://bucket/run"),
        ("export", "s3://bucket/run"),
        ("import", "s3://bucket/run"),
        ("embed", "s3://bucket/run"),
        ("knn_eval", "s3://bucket/run"),
        ("transfer", "s3://bucket/run"),
        ("robustness", "s3://bucket/run"),
    ],
)
def test_address_that_tensorflow_cannot_open_is_one_line(capsys, flag, value):
    more = {
        "eval": ["--mode=eval", f"--model_dir={value}", "--dataset=digits"],
        "export": ["--mode=export", f"--model_dir={value}"],
        "import": ["--mode=import", f"--checkpoint={value}", "--model_dir=x"],
        "embed": ["--mode=embed", f"--checkpoint={value}", "--output=x.npz", "--dataset=digits"],
        "knn_eval": ["--mode=knn_eval", "--checkpoint=x", f"--output={value}.json", "--dataset=digits"],
        "transfer": ["--mode=transfer", f"--checkpoint={value}", "--datasets=digits"],
        "robustness": ["--mode=robustness", f"--checkpoint={value}"],
    }
    assert run.main(more.get(flag, [f"--{flag}={value}", "--train_mode=pretrain", "--image_size=8"])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    scheme = value.partition("://")[0].rpartition(":")[2]
    assert f"{value}" in line and f": TensorFlow has no file system for {scheme}:// here; use a path" in line


def test_address_for_what_is_written_here_is_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run.main(["--mode=preview", "--dataset=digits", "--output=s3://bucket/x.png"]) == 2
    assert capsys.readouterr().err == (
        "error: --output=s3://bucket/x.png: is not a path; write to a local file, then copy it.\n"
    )
    assert os.listdir(tmp_path) == []


# ---- Wrong data


def test_data_set_unknown_names_the_nearest(refused):
    message = refused(dataset="digitz")
    assert message.startswith("--dataset=digitz: no such data set")
    assert "digits" in message


def test_split_missing_names_those_there(refused):
    message = refused(train_split="trian")
    assert message.startswith("--train_split=trian: digits has the split(s) train, test; use one of them")


def test_split_part_that_is_none_is_refused(refused):
    assert "--train_split=train[:x]: not a part of a split" in refused(train_split="train[:x]")


@pytest.mark.parametrize("content", ["nothing", "empty", "mixed", "empty class", "file"])
def test_folder_without_a_usable_set_of_images_is_refused(refused, tmp_path, content):
    folder = tmp_path / "data"
    expected = {
        "nothing": "does not exist",
        "empty": "holds no images",
        "mixed": "use either one subfolder per class or a flat folder",
        "empty class": "no images in the class folder(s) dog",
        "file": "is a file",
    }[content]
    if content == "file":
        folder.write_text("x")
    elif content != "nothing":
        folder.mkdir()
    if content in ("mixed", "empty class"):
        write_png(folder / "cat" / "a.png")
    if content == "mixed":
        write_png(folder / "b.png")
    if content == "empty class":
        (folder / "dog").mkdir()
    message = refused(dataset=f"folder:{folder}", eval_split=None)
    assert message.startswith(f"--dataset=folder:{folder}: ")
    assert expected in message


def test_batch_larger_than_the_data_is_refused(refused):
    message = refused(train_batch_size=5000)
    assert message.startswith("--train_batch_size=5000: digits (train) has only 1347 examples")


# ---- Wrong checkpoints and directories


@pytest.mark.slow
def test_checkpoint_that_does_not_exist_leaves_nothing_and_the_directory_free(refused, tmp_path):
    message = refused(checkpoint=f"{tmp_path}/ckpt-3")
    assert message == (
        f"--checkpoint={tmp_path}/ckpt-3: no such checkpoint; no checkpoint is in that directory either."
    )


@pytest.mark.slow
def test_checkpoint_of_another_network_leaves_nothing(refused):
    message = refused(checkpoint=finished_run().directory, proj_out_dim=32)
    assert "another network; variables: " in message
    assert message.endswith("it was written with --proj_out_dim=16 (here 32).")


def test_directory_of_another_run_is_refused_and_kept(capsys):
    before = finished_run().files()
    assert run.main(tiny_arguments(finished_run().directory, temperature=0.9)) == 2
    assert "holds a run with other settings (--temperature=0.2 there, 0.9 now)" in capsys.readouterr().err
    assert finished_run().files() == before


@pytest.mark.parametrize("place", ["below a file", "/sys/tf_simclr_test"])
def test_directory_that_cannot_be_written_is_refused(refused, tmp_path, place):
    (tmp_path / "file").write_text("x")
    directory = f"{tmp_path}/file/run" if place == "below a file" else place
    message = refused(model_dir=directory)
    assert message.startswith(f"--model_dir={directory}: cannot be written (")
    assert not os.path.exists(directory)


# ---- Devices


@pytest.mark.parametrize("flags", [{"use_tpu": True}, {"strategy": "tpu"}])
def test_tpu_that_does_not_answer_is_refused_within_seconds(refused, flags):
    start = time.monotonic()
    assert "no TPU answers" in refused(**flags)
    assert time.monotonic() - start < 20


# ---- Keras 3


def test_keras_3_already_loaded_is_refused(monkeypatch):
    fake = types.SimpleNamespace(keras=types.SimpleNamespace(__version__="3.4.1"))
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    monkeypatch.setitem(sys.modules, "keras", types.ModuleType("keras"))
    with pytest.raises(ImportError) as error:
        tf_simclr._refuse_keras_3()
    assert "\n" not in str(error.value)
    assert "import tf_simclr first, or set the environment variable TF_USE_LEGACY_KERAS=1" in str(error.value)


@pytest.mark.parametrize("version", ["2.15.0", None])
def test_keras_2_already_loaded_is_accepted(monkeypatch, version):
    keras = types.SimpleNamespace(__version__=version) if version else types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "tensorflow", types.SimpleNamespace(keras=keras))
    monkeypatch.setitem(sys.modules, "keras", types.ModuleType("keras"))
    tf_simclr._refuse_keras_3()


@pytest.mark.slow
@pytest.mark.skipif(tf.__version__ < "2.16", reason="this TensorFlow has no Keras 3")
def test_keras_3_really_loaded_is_refused():
    script = "import keras, tensorflow; tensorflow.keras.Model; import tf_simclr"
    done = run_python(script, env=os.environ | {"TF_USE_LEGACY_KERAS": "0"})
    assert done.returncode != 0
    assert "ImportError: tf_simclr uses the Keras 2 API, but Keras 3 was already" in done.stderr


# ---- Processes of their own


def run_python(script, timeout=120, **options):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


def test_wrong_flag_fails_before_tensorflow_is_loaded():
    done = run_python(
        """
        import sys, run
        assert run.main(["--temperature=0"]) == 2
        assert run.main(["--help"]) == 0
        assert run.main(["--help=dta"]) == 2
        assert "tensorflow" not in sys.modules and "numpy" not in sys.modules
        """
    )
    assert done.returncode == 0, done.stderr
    wrong, unknown = done.stderr.splitlines()
    assert wrong == "error: --temperature=0.0: use a number above 0; the paper uses 0.1."
    assert unknown.startswith("error: --help=dta: no such group or flag; use one of run, data, ")
    assert "  --temperature: a number above 0" in done.stdout


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


def test_version_is_one_line(capsys):
    assert run.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tf_simclr {tf_simclr.__version__}\n"


def test_program_with_a_wrong_flag_exits_with_an_error():
    done = run_program("--lerning_rate=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --lerning_rate: no such flag; did you mean --learning_rate")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("saved", [None, "the same command goes on from runs/x/ckpt-7"])
def test_interrupt_is_one_line_that_says_what_was_saved(monkeypatch, capsys, tmp_path, saved):
    previous = signal.getsignal(signal.SIGINT)

    def interrupt(config):
        with interrupts_tell(lambda: saved):
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupt)
    try:
        assert run.main(tiny_arguments(tmp_path)) == 130
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # No traceback of a second one.
    finally:
        signal.signal(signal.SIGINT, previous)
    assert capsys.readouterr().err == f"interrupted: {saved or 'nothing was saved since the start'}.\n"


def test_lack_of_memory_anywhere_is_one_line(monkeypatch, capsys, tmp_path):
    def exhaust(config):
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(run, "run", exhaust)
    assert run.main(tiny_arguments(tmp_path / "run")) == 2
    assert capsys.readouterr().err == (
        "error: this command: does not fit into memory (std::bad_alloc); use smaller batches or a smaller network, or "
        "end other programs.\n"
    )


@pytest.mark.parametrize(
    ("number", "how", "status"),
    [
        (signal.SIGTERM, "preempted", 143),
        (signal.SIGHUP, "preempted", 129),
        (signal.SIGINT, "interrupted", 130),
    ],
)
def test_preempted_run_is_one_line_and_the_exit_status_of_its_signal(
    monkeypatch, capsys, tmp_path, number, how, status
):
    def preempt(config):
        raise PreemptedError("asked to end after step 7 of 10: runs/x/ckpt-7 is written", number)

    monkeypatch.setattr(run, "run", preempt)
    assert run.main(tiny_arguments(tmp_path)) == status
    assert capsys.readouterr().err == (
        f"{how}: asked to end after step 7 of 10: runs/x/ckpt-7 is written; the same command goes on from there.\n"
    )


@pytest.mark.parametrize("flags", [{}, {"keep_hub_module_max": 0}])
def test_run_exports_unless_it_is_switched_off(monkeypatch, tmp_path, flags):
    seen = []
    monkeypatch.setattr(tf_simclr, "train_and_evaluate", lambda c, actions: seen.append(actions), raising=False)
    run.main(tiny_arguments(tmp_path, **flags))
    assert len(seen[0]) == (0 if flags else 1)


KILL_FLAGS = {"train_steps": 40, "checkpoint_steps": 5, "steps_per_loop": 5, "mode": "train"}


def start(directory, **flags):
    command = [sys.executable, "run.py", *tiny_arguments(directory, **(KILL_FLAGS | flags))]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_when_there(process, path, seconds_after):
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(seconds_after)
    assert process.poll() is None, process.communicate()[0]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_run_killed_and_resumed_equals_the_uninterrupted_to_the_bit(tmp_path):
    whole = start(tmp_path / "whole", keep_hub_module_max=0)
    cut = tmp_path / "cut"
    # While the first checkpoint is being finished, and somewhat after a later one.
    kill_when_there(start(cut), cut / "ckpt-5.index", 0.0)
    kill_when_there(start(cut), cut / "ckpt-15.index", 0.05)
    last = run_program(*tiny_arguments(cut, **KILL_FLAGS))
    assert last.returncode == 0, last.stderr
    assert "Going on from step " in last.stdout
    assert whole.wait(timeout=120) == 0, whole.communicate()[0]
    whole.communicate()
    assert differing_tensors(tmp_path / "whole" / "ckpt-40", cut / "ckpt-40") == []


@pytest.mark.slow
def test_eval_beside_training_follows_it_to_the_end(tmp_path):
    training = start(tmp_path / "run", train_steps=300, checkpoint_steps=30)
    evaluation = run_program(*tiny_arguments(tmp_path / "run", mode="eval", train_steps=300))
    assert training.wait(timeout=120) == 0, training.communicate()[0]
    training.communicate()
    assert evaluation.returncode == 0, evaluation.stderr
    assert "Waiting for the first checkpoint" in evaluation.stdout
    assert "Result: linear probe top-1 " in evaluation.stdout
    steps = sorted(int(path.stem.split("_")[1]) for path in (tmp_path / "run").glob("result_*.json"))
    assert steps[-1] == 300
    assert all(step % 30 == 0 for step in steps)


@pytest.mark.slow
def test_program_trains_evaluates_exports_and_shows_it(tmp_path):
    done = run_program(*tiny_arguments(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Recipe: digits, because of --dataset=digits")
    assert lines[1].startswith("Strategy: one_device (auto: ")
    assert lines[2].startswith("Training images: digits (train): 1347 images, 10 classes")
    for start in (
        f"pretrain on digits (train): 1347 images, {TOTAL_STEPS} steps of 32; ResNet-10",
        "step 1/6 | compiled | loss ",
    ):
        assert any(line.startswith(start) for line in lines)
    assert lines[-2].startswith("Result: linear probe top-1 ")
    assert lines[-1].startswith("Report: ")
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "saved_model" / "6" / "saved_model.pb").exists()
