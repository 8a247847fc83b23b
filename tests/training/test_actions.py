"""Progress on a terminal and elsewhere, TensorBoard files, the watch on unreadable images."""

import dataclasses
import io
import re
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.support.runs import TOTAL_STEPS, finished_run
from tf_simclr.config import UserError
from tf_simclr.data import ArraySource
from tf_simclr.training.actions import (
    BadImageWatch,
    HeldActions,
    ProgressReporter,
    TensorBoardWriter,
    write_eval_scalars,
)
from tf_simclr.training.loop import LoopEvent, LoopPlan

PLAN = LoopPlan(total_steps=100, checkpoint_steps=50, steps_per_loop=10, global_batch_size=32)
METRICS = {"contrast_loss": 3.25, "contrast_acc": 0.5, "supervised_acc": 0.25, "bad_images": 0.0}


def make_event(step, *, num_steps=10, speed=1234.4, checkpoint=None, **metrics):
    return LoopEvent(step, num_steps, PLAN, METRICS | metrics, speed, checkpoint, task=None)


def schedule(step):
    return tf.constant(0.001 * step)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_without_a_terminal_is_plain_lines(log, capsys):
    reporter = ProgressReporter(schedule, chance_loss=8.29, later_work=0.5)
    reporter(make_event(1, num_steps=1, speed=0.0))
    for step in (5, 9, 12):
        reporter(dataclasses.replace(make_event(step, num_steps=4), seconds=8.0))
    metrics = "loss 3.250 | acc 50.0% | probe acc 25.0% | chance 8.29"
    assert log.messages[0] == f"step 1/100 | compiled | {metrics} | lr 0.001 | ? left | all stages ?"
    # 2 seconds a step, 88 steps, and 50 of later stages.
    assert log.messages[3] == f"step 12/100 | 1234 images/s | {metrics} | lr 0.012 | 02:56 left | all stages 04:36"
    assert capsys.readouterr().err == ""


LOSS = {"total_loss": 1.0, "bad_images": 0.0}


@pytest.mark.parametrize(
    ("metrics", "shown"),
    [
        (METRICS | {"contrast_chance": 9.75}, "loss 3.250 | acc 50.0% | probe acc 25.0% | chance 9.75"),
        (METRICS | {"bad_images": 0.3}, "loss 3.250 | acc 50.0% | probe acc 25.0% | 3 unreadable | chance 22.20"),
        (LOSS, "loss 1.000"),
        (LOSS | {"supervised_acc": 0.5}, "loss 1.000 | acc 50.0%"),
        (LOSS | {"distill_loss": 2.0, "teacher_agreement": 0.75}, "loss 2.000 | as the teacher 75.0%"),
    ],
)
def test_progress_shows_the_metrics_of_the_task(log, metrics, shown):
    ProgressReporter(schedule, chance_loss=22.2)(dataclasses.replace(make_event(20), metrics=metrics))
    assert log.messages == [f"step 20/100 | 1234 images/s | {shown} | lr 0.02 | ? left"]


def test_progress_on_a_terminal_is_a_bar(log, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    reporter = ProgressReporter(schedule, chance_loss=8.29)
    for step in (40, 60, 100):
        reporter(make_event(step))
    shown = terminal.getvalue()
    assert log.messages == []
    assert shown.startswith("\rcompiling the training step ...")
    assert "\r 60%|" in shown
    assert "| 60/100, ? left | loss 3.250 | acc 50.0% | probe acc 25.0%" in shown
    assert shown.endswith("\n")  # The last event leaves the line, and so does closing it.
    reporter = ProgressReporter(schedule)
    reporter(make_event(40))
    assert not terminal.getvalue().endswith("\n")
    reporter.close()
    assert terminal.getvalue().endswith("\n")


def test_progress_is_silent_if_no_step_was_taken(log):
    ProgressReporter(schedule)(LoopEvent(100, 0, PLAN, {}, 0.0, "ckpt-100", task=None))
    assert log.messages == []


def read_events(directory):
    """Returns {tag: [(step, value)]} of all event files, pictures as arrays."""
    values = {}
    for path in sorted(directory.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                tensor = tf.make_ndarray(value.tensor)
                values.setdefault(value.tag, []).append((event.step, tensor))
    return values


def test_tensorboard_writer_writes_scalars_and_views(tmp_path):
    views = np.zeros([4, 2, 8, 8, 3], np.float32)
    views[1, 0] = 1.0
    calls = []
    writer = TensorBoardWriter(str(tmp_path), schedule, lambda: calls.append(1) or tf.constant(views))
    writer(LoopEvent(0, 0, PLAN, {}, 0.0, None, task=None))
    assert list(tmp_path.iterdir()) == []
    writer(make_event(10, speed=0.0))
    writer(make_event(50, checkpoint="ckpt-50", contrast_loss=2.0))
    values = read_events(tmp_path)
    assert calls == [1]
    assert [(step, float(value)) for step, value in values["train/contrast_loss"]] == [(10, 3.25), (50, 2.0)]
    assert [step for step, _ in values["train/images_per_second"]] == [50]
    assert float(values["train/learning_rate"][0][1]) == pytest.approx(0.01)
    assert {f"train/{name}" for name in METRICS} <= values.keys()
    ((step, picture),) = values["train/views"]
    assert step == 10
    width, height, encoded = picture[0], picture[1], picture[2]
    assert (int(width), int(height)) == (4 * 8, 2 * 8)
    image = tf.io.decode_png(encoded).numpy()
    assert image[:8, 8:16].min() == 255
    assert image.sum() == 8 * 8 * 3 * 255


def test_tensorboard_writer_on_a_full_disk_says_so_once_and_stops_nothing(tmp_path, log, monkeypatch):
    def fail(*arguments, **options):
        raise tf.errors.ResourceExhaustedError(None, None, "events.v2; No space left on device")

    monkeypatch.setattr(tf.summary, "scalar", fail)
    writer = TensorBoardWriter(str(tmp_path), schedule, lambda: tf.zeros([1, 2, 8, 8, 3]))
    for step in (1, 2):
        writer(make_event(step))
    line = f"{tmp_path}: no more files for TensorBoard (events.v2; No space left on device); the run goes on."
    assert log.messages == [line]
    write_eval_scalars(str(tmp_path), {"accuracy": 0.5}, 2)
    assert log.messages == [line, line]


def test_run_writes_training_and_evaluation_to_tensorboard():
    run = finished_run()
    values = read_events(run.directory)
    assert [step for step, _ in values["train/contrast_loss"]] == [1, 2, 4, 6]
    ((step, accuracy),) = values["eval/label_top_1_accuracy"]
    assert step == TOTAL_STEPS
    assert float(accuracy) == pytest.approx(run.result["eval/label_top_1_accuracy"])
    assert len(values["train/views"]) == 1
    assert [int(value) for _, value in values["train/num_bad_images"]] == [0, 0, 0, 0]


def make_watch(max_fraction, num_examples=64, bad=(), directory="/does/not/exist", **options):
    source = ArraySource("birds (train)", np.zeros([num_examples, 2, 2, 3], np.uint8))
    for name in bad:
        source.add_bad_image(name)
    return BadImageWatch(source, max_fraction, str(directory), **options)


def test_bad_image_watch_stops_over_the_tolerated_share():
    watch = make_watch(0.1, bad=["a.png", "b.png"])
    watch(make_event(1, num_steps=1, bad_images=32.0))  # Less than an epoch says nothing yet.
    with pytest.raises(UserError) as error:
        watch(make_event(3, num_steps=2, bad_images=1.5))
    assert str(error.value) == (
        "--max_bad_image_fraction=0.1: 35 of 96 images of birds (train) are unreadable, such as a.png, "
        "b.png; fix or remove them, or tolerate a larger share."
    )


@pytest.mark.parametrize(
    ("names", "bad_images", "messages"),
    [
        (["a.png", "b.png"], 0.2, ["Skipped 2 unreadable images: a.png, b.png"]),
        ([], 0.2, ["Skipped unreadable images 2 times."]),  # Another process knows the names.
        ([], 0.0, []),
    ],
)
def test_bad_image_watch_tolerates_and_reports_once(log, names, bad_images, messages):
    watch = make_watch(0.1, bad=names)
    watch(make_event(10, bad_images=bad_images))
    assert log.messages == []
    watch(make_event(100, bad_images=0.0))
    assert log.messages == messages


def test_bad_image_watch_says_what_to_do_with_formats_that_tensorflow_does_not_read(log):
    watch = make_watch(0.1, bad=["a.png", "b.TIF", "c.webp"])
    watch(make_event(10, num_steps=1, bad_images=0.2))
    hint = f"TensorFlow {tf.__version__} does not read every .tif and .webp file, and --mode=prepare converts them"
    with pytest.raises(UserError, match=f"c.webp; {re.escape(hint)}; fix or remove them, or tolerate"):
        watch(make_event(20, bad_images=32.0))
    watch = make_watch(0.1, bad=["a.png", "b.TIF", "c.webp"])
    watch(make_event(100, num_steps=3, bad_images=1.0))
    assert log.messages[-1] == f"{hint}."


def test_bad_images_are_counted_over_all_starts_of_a_run(tmp_path):
    def events(watch, *steps):
        start = steps[0] - 10
        for step in steps:
            watch(make_event(step, num_steps=step - start, checkpoint="ckpt", bad_images=0.1))
            start = step
        return watch.num_bad_images

    assert events(make_watch(1, directory=tmp_path), 10, 20, 30) == 3
    # It was killed, and goes on from another checkpoint than the last.
    assert events(make_watch(1, directory=tmp_path), 30, 40) == 4
    finished = make_watch(1, directory=tmp_path)
    finished(LoopEvent(40, 0, PLAN, {}, 0.0, "ckpt-40", task=None))
    assert finished.num_bad_images == 4
    # In the same directory another run begins.
    assert events(make_watch(1, directory=tmp_path), 10) == 1
    assert events(make_watch(1, directory=tmp_path), 50) == 1
    for damaged in ("", "[]", '{"10": 3}', '{"x": [1, 2]}'):
        (tmp_path / "bad_images.json").write_text(damaged)
        assert events(make_watch(1, directory=tmp_path), 20) == 1


def test_bad_images_of_steps_that_are_taken_again_count_once(tmp_path):
    watch = make_watch(1, directory=tmp_path)
    watch(make_event(10, num_steps=10, checkpoint="ckpt-10", bad_images=0.1))
    watch(make_event(15, num_steps=5, bad_images=1.0))
    watch(make_event(20, num_steps=10, checkpoint="ckpt-20", bad_images=0.2))  # Back from 15 to 10.
    assert watch.num_bad_images == 3


def test_bad_images_leave_no_file_where_there_are_none_and_with_other_workers(tmp_path):
    make_watch(1, directory=tmp_path)(make_event(10, checkpoint="ckpt-10"))
    make_watch(1, directory=tmp_path, writes=False)(make_event(10, checkpoint="ckpt-10", bad_images=1.0))
    assert list(tmp_path.iterdir()) == []


def test_bad_images_count_for_the_whole_run_and_those_that_were_left_out_once():
    watch = make_watch(0.01)
    watch._source.num_left_out = 3
    watch(make_event(101, num_steps=1, bad_images=3.0))  # Of 3232; of 32, 3 would be too many.
    assert watch.num_bad_images == 6


def test_held_actions_see_the_last_event_after_the_evaluation_with_its_result():
    seen = []
    held = HeldActions([lambda event: seen.append((1, event)), lambda event: seen.append((2, event))])
    held.release({"accuracy": 0.0})
    held(make_event(50))
    held(make_event(100))
    assert [(number, event.step, event.result) for number, event in seen] == [(1, 50, None), (2, 50, None)]
    held.release({"accuracy": 0.5})
    last = [(number, event.step, event.result) for number, event in seen[2:]]
    assert last == [(1, 100, {"accuracy": 0.5}), (2, 100, {"accuracy": 0.5})]


def test_held_actions_are_checked_if_they_have_a_check():
    class Exporter:
        def check(self, total_steps):
            seen.append(total_steps)

    seen = []
    HeldActions([lambda event: None, Exporter()]).check(100)
    assert seen == [100]
