"""Files of ours that were damaged: every reader passes them over, or raises one line, and comes to an end."""

import dataclasses
import functools
import itertools
import json
import os
import types

import pytest

from exports.retention import MARKER, is_export
from flags.convert import parse_command_line
from tests.support.runs import tiny_config as parsed_config
from tf_simclr.config import StrategyConfig, UserError
from tf_simclr.data.manifest import new_manifest, read_manifest
from tf_simclr.distribution.cluster import find_cluster, names_several_workers
from tf_simclr.evaluation.feature_files import FeatureFiles
from tf_simclr.interop.saved_models import read_image_size
from tf_simclr.metrics.confusion import read_confusion
from tf_simclr.preparation.record_writer import PreparedFiles
from tf_simclr.rendering.scores import score_cells
from tf_simclr.report import evaluations
from tf_simclr.runs.data import describe_change, read_run_data
from tf_simclr.runs.directory import check_directory, read_settings
from tf_simclr.runs.results import ResultFiles
from tf_simclr.suites.results import SuiteResults
from tf_simclr.training.actions import _read_counts
from tf_simclr.workflows.semi_supervised import results_table

BYTES = {
    "empty": b"",
    "cut": b'{"format": "tf_simclr-prepared-1", "a": [',
    "no text": b"\xff\xfe\x00{}",
    "deep": b"[" * 10**5,
    "deep object": b'{"a":' * 10**5,
    "a list": b"[1]",
    "a number": b"3",
    "null": b"null",
    "not finite": b'{"global_step": NaN, "a": 1e999}',
    "long number": b"9" * 5000,
}
VALUES = (None, True, -1, 10**18, 10**400, 0.5, "../x", "\x1b[2J", [], [[1]], {}, {"../x": {"a": None}})

ENTRY = {"name": "train-00000-of-00002.tfrecord", "num_examples": 6, "bytes": 600, "sha256": "a", "unreadable": {}}
PREPARED = new_manifest({"dataset": "folder:a"}, ["cat", "dog"], {"train": (12, 2)})
PREPARED["splits"]["train"]["files"] = [ENTRY]
SCORES = {"label_top_1_accuracy": 0.5, "label_top_5_accuracy": 1.0, "num_examples": 12}
PROBE = {f"linear_eval/{name}": value for name, value in SCORES.items()} | {"train": "a", "test": "b"}
SUITE = {"linear/dtd": SCORES | {"settings": {"weights": "w"}}}
RESULT = {f"eval/{name}": value for name, value in SCORES.items()}
RESULT |= {"global_step": 6, "num_weights": 7, "eval_split": "test", "eval_steps": 0}
FEATURES = {
    "contents": {"shard_size": 4, "class_names": ["cat"], "dataset": "digits"},
    "checkpoint": "ckpt-1",
    "num_images": 12,
    "files": {"f-00000-of-00003.npz": {"num_rows": 4, "num_bytes": 10, "unreadable": ["a"]}},
}
METADATA = {"image_size": 32, "num_classes": 2, "class_names": ["a", "b"], "settings": {"resnet_depth": 18}}
WORKERS = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}


@functools.cache
def config():
    return parsed_config("x")


def tiny_config(folder):
    return dataclasses.replace(config(), model_dir=str(folder))


def read_run(folder):
    check_directory(tiny_config(folder))
    read_settings(str(folder))


def read_run_to_evaluate(folder):
    parse_command_line(["--mode=eval", f"--model_dir={folder}", "--dataset=digits"])


def read_data(folder):
    if data := read_run_data(str(folder)):
        describe_change(data, data._replace(fingerprint="b"))


def read_result(folder):
    config = tiny_config(folder)
    if result := ResultFiles(config).finished(6):
        ResultFiles(config).describe(result)
        results_table(types.SimpleNamespace(steps={"pretrain": config}), {"pretrain": result})
        score_cells(result, "eval")


def read_probe(folder):
    evaluations.frozen_features({"pretrain": tiny_config(folder)})


def read_suite(folder):
    SuiteResults(str(folder / "transfer" / "result_transfer.json"), "output").find("linear/dtd", {"weights": "w"})
    evaluations.suites({"pretrain": tiny_config(folder)})


def read_records(folder):
    if manifest := read_manifest(str(folder)):
        for path in itertools.chain(*manifest.paths.values()):
            assert os.path.dirname(path) == str(folder)
            manifest.file(path)


def read_prepared(folder):
    for shard in PreparedFiles(str(folder), overwrite=False).shards:
        assert os.path.basename(shard.name) == shard.name


def read_features(folder):
    files = FeatureFiles(str(folder / "f.npz"), overwrite=True)
    assert not files._manifest or len(files.missing) + files.num_rows + len(files.unreadable) < 10**7


def read_metadata(folder):
    (folder / MARKER).write_text("{}")
    assert 0 < read_image_size(str(folder), "checkpoint") < 10**5


READERS = {
    "flags.json": (read_run, {"train_mode": "pretrain", "checkpoint": None, "temperature": 0.2}),
    "flags.json of a run to evaluate": (read_run_to_evaluate, {"train_mode": "finetune", "image_size": 8}),
    "class_names.json": (read_data, ["a", "b"]),
    "data.json": (read_data, {"num_images": 6, "num_classes": 2, "fingerprint": "a"}),
    "result.json": (read_result, RESULT),
    "result_linear_eval.json": (read_probe, PROBE),
    "transfer/result_transfer.json": (read_suite, SUITE),
    "manifest.json": (read_records, PREPARED),
    "unfinished.json": (read_prepared, PREPARED),
    "f.npz.json": (read_features, FEATURES),
    "assets/metadata.json": (read_metadata, METADATA),
    MARKER: (lambda folder: is_export(str(folder)), {"format": "saved_model", "global_step": 6}),
    "bad_images.json": (lambda folder: _read_counts(str(folder / "bad_images.json")), {"6": [1, 2]}),
    "result_confusion.csv": (lambda folder: read_confusion(str(folder / "result_confusion.csv")), None),
}


def mutations(content):
    """All copies of a value of JSON in which one part is another, or is missing."""
    yield from VALUES
    if isinstance(content, dict):
        for name, value in content.items():
            others = {key: other for key, other in content.items() if key != name}
            yield others
            yield others | {"../x": value}
            yield from ({**content, name: changed} for changed in mutations(value))
    if isinstance(content, list):
        for place, value in enumerate(content):
            yield from ([*content[:place], changed, *content[place + 1 :]] for changed in mutations(value))


def check(read, *arguments):
    try:
        read(*arguments)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", READERS)
def test_damaged_file_is_one_line_or_passed_over(tmp_path, name):
    read, valid = READERS[name]
    (tmp_path / "ckpt-1.index").touch()
    path = tmp_path / name.partition(" ")[0]
    path.parent.mkdir(exist_ok=True)
    for content in BYTES.values():
        path.write_bytes(content)
        check(read, tmp_path)
    for content in mutations(valid):
        path.write_text(json.dumps(content))
        check(read, tmp_path)
    path.unlink()
    os.mkfifo(path)
    check(read, tmp_path)


def test_damaged_tf_config_is_one_line(monkeypatch):
    texts = [content.decode(errors="surrogateescape") for content in BYTES.values() if b"\0" not in content]
    for text in [*texts, *map(json.dumps, mutations(WORKERS))]:
        monkeypatch.setenv("TF_CONFIG", text)
        check(find_cluster, StrategyConfig())
        check(names_several_workers, StrategyConfig())
