"""The workers that TF_CONFIG and Slurm name; no server starts."""

import json
import os
import pathlib
import re
import subprocess

import pytest
import tensorflow as tf

from tf_simclr.config import StrategyConfig, UserError
from tf_simclr.distribution.cluster import Cluster, find_cluster, names_several_workers


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    names = ("PROCID", "LOCALID", "STEP_NUM_TASKS", "STEP_NODELIST", "STEP_TASKS_PER_NODE", "GPUS_ON_NODE")
    for name in ("TF_CONFIG", "SLURMD_NODENAME", *(f"SLURM_{name}" for name in names)):
        monkeypatch.delenv(name, raising=False)


def refusal(**settings):
    with pytest.raises(UserError) as error:
        find_cluster(StrategyConfig(strategy="multi_worker", **settings))
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def find(**settings):
    return find_cluster(StrategyConfig(strategy="multi_worker", **settings))


def test_no_workers_named_says_how_to_name_them():
    assert refusal() == (
        "--strategy=multi_worker: neither TF_CONFIG nor Slurm names the workers; set TF_CONFIG or start with srun."
    )
    assert not names_several_workers(StrategyConfig())


@pytest.mark.parametrize("address", ["a", "a:", "a:0", "a:70000", ":1", "grpc://a:1", "a:1/b", "fe80::1:1"])
def test_address_that_is_none_is_refused(address):
    with pytest.raises(UserError) as error:
        Cluster(("h:1", address), 0, "TF_CONFIG")
    assert str(error.value) == (
        f"TF_CONFIG: the address {address} of worker 1 is not of the form host:port, with a port from 1 to 65535; "
        "fix it."
    )


def test_address_may_be_a_name_or_of_any_family():
    workers = Cluster(("Host-1.local:8470", "10.0.0.1:65535", "[fd00::1]:1"), 0, "TF_CONFIG")
    places = [workers.host_and_port(number) for number in range(3)]
    assert places == [("host-1.local", 8470), ("10.0.0.1", 65535), ("fd00::1", 1)]


def test_resolver_is_what_tensorflow_needs(monkeypatch):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [1, 2] if kind == "GPU" else [])
    resolver = Cluster(("a:1", "b:2"), 1, "TF_CONFIG").resolver()
    assert resolver.cluster_spec().as_dict() == {"worker": ["a:1", "b:2"]}
    assert (resolver.task_type, resolver.task_id, resolver.rpc_layer) == ("worker", 1, "grpc")
    assert resolver.num_accelerators() == {"GPU": 2}


# ---- TF_CONFIG


def set_tf_config(monkeypatch, jobs, task_type="worker", index=0, **jobs_too):
    content = {"cluster": jobs | jobs_too, "task": {"type": task_type, "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(content))


@pytest.mark.parametrize("name", ["auto", "tf_config"])
def test_tf_config_names_the_workers_in_its_order(monkeypatch, name):
    set_tf_config(monkeypatch, {"worker": ["b:1", "a:2"]}, index=1)
    assert find(cluster=name) == Cluster(("b:1", "a:2"), 1, "TF_CONFIG")
    assert names_several_workers(StrategyConfig(cluster=name))


@pytest.mark.parametrize(("task", "index"), [(("chief", 0), 0), (("worker", "1"), 2)])
def test_tf_config_chief_comes_first_and_the_index_may_be_text(monkeypatch, task, index):
    set_tf_config(monkeypatch, {"worker": ["b:1", "c:1"], "chief": ["a:1"]}, *task)
    assert find() == Cluster(("a:1", "b:1", "c:1"), index, "TF_CONFIG")


def test_tf_config_of_one_worker_is_no_reason_for_several(monkeypatch):
    set_tf_config(monkeypatch, {"chief": ["a:1"]}, "chief")
    assert not names_several_workers(StrategyConfig())
    assert find() == Cluster(("a:1",), 0, "TF_CONFIG")


@pytest.mark.parametrize("text", ["", " ", "{}"])
def test_tf_config_empty_is_as_good_as_none(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    assert not names_several_workers(StrategyConfig())
    assert "neither TF_CONFIG nor Slurm" in refusal()
    assert refusal(cluster="tf_config").startswith(f"TF_CONFIG={text.strip()}: ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{not json", "cannot be read ("),
        ('{"cluster": {"worker": "a:1"}}', "cannot be read ("),
        ("3", "cannot be read ("),
        ('{"cluster":\n 1}', "cannot be read ("),
        ("[]", "names no cluster or no task; use the form "),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}', "names no cluster or no task; "),
        ('{"cluster": {}, "task": {"type": "worker", "index": 0}}', "names no cluster or no task; "),
    ],
)
def test_tf_config_that_cannot_be_used_shows_the_form(monkeypatch, text, reason):
    monkeypatch.setenv("TF_CONFIG", text)
    message = refusal()
    assert message.startswith(f"TF_CONFIG={' '.join(text.split())}: {reason}")
    assert message.endswith('"task": {"type": "worker", "index": 0}}.')


@pytest.mark.parametrize(("task", "index"), [("worker", -1), ("chief", 0)])
def test_tf_config_task_that_is_not_there_names_those_that_are(monkeypatch, task, index):
    set_tf_config(monkeypatch, {"worker": ["a:1", "b:1"]}, task, index)
    assert refusal().endswith(
        f": names the task {task} {index}, but its cluster has worker 0, worker 1; use one of them."
    )


@pytest.mark.parametrize(("jobs", "task", "named"), [(["ps"], "worker", "ps"), ([], "evaluator", "evaluator")])
def test_tf_config_job_that_takes_no_part_is_refused(monkeypatch, jobs, task, named):
    set_tf_config(monkeypatch, {"worker": ["a:1"]} | {job: ["p:1"] for job in jobs}, task)
    assert refusal().endswith(f": {named} cannot take part; leave it out: chief and worker can.")


def test_tf_config_with_an_address_twice_is_refused(monkeypatch):
    set_tf_config(monkeypatch, {"chief": ["a:1"], "worker": ["a:1", "b:1"]})
    assert refusal() == "TF_CONFIG: names a:1 twice; give each worker an address of its own."


# ---- Slurm


def set_slurm(monkeypatch, nodes, tasks_per_node, node, *, local=0, rank=0, num_tasks):
    variables = {
        "SLURM_PROCID": rank,
        "SLURM_LOCALID": local,
        "SLURMD_NODENAME": node,
        "SLURM_STEP_NUM_TASKS": num_tasks,
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_TASKS_PER_NODE": tasks_per_node,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


def set_gpus(monkeypatch, count, on_node=None):
    """Fakes GPUs; returns what is made visible of them."""
    visible = []
    gpus = [f"GPU:{number}" for number in range(count)]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: gpus if kind == "GPU" else [])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: visible.append((devices, kind)))
    if on_node is not None:
        monkeypatch.setenv("SLURM_GPUS_ON_NODE", str(on_node))
    return visible


@pytest.mark.parametrize("name", ["auto", "slurm"])
def test_slurm_on_nodes_without_gpus_needs_no_nvidia_smi(monkeypatch, name):
    monkeypatch.setenv("PATH", "")
    set_slurm(monkeypatch, "n[1-3]", "1(x3)", "n2", rank=1, num_tasks=3)
    assert find(cluster=name) == Cluster(("n1:8470", "n2:8470", "n3:8470"), 1, "Slurm")
    assert names_several_workers(StrategyConfig(cluster=name))


@pytest.mark.parametrize(("node", "local", "rank", "address"), [("n9", 0, 0, "n9:8470"), ("n10", 1, 3, "n10:8471")])
def test_slurm_worker_is_where_it_runs_whatever_its_rank(monkeypatch, node, local, rank, address):
    """TensorFlow's resolver sorts n10 before n9; Slurm does not."""
    set_slurm(monkeypatch, "n[9-10]", "2(x2)", node, local=local, rank=rank, num_tasks=4)
    found = find()
    assert found.addresses == ("n10:8470", "n10:8471", "n9:8470", "n9:8471")
    assert found.addresses[found.index] == address


def test_slurm_with_one_task_is_no_reason_for_several(monkeypatch):
    set_slurm(monkeypatch, "n1", "1", "n1", num_tasks=1)
    assert not names_several_workers(StrategyConfig())


def test_tf_config_goes_before_slurm(monkeypatch):
    set_slurm(monkeypatch, "n[1-2]", "1(x2)", "n1", num_tasks=2)
    set_tf_config(monkeypatch, {"worker": ["a:1"]})
    assert find().source == "TF_CONFIG"
    assert find(cluster="slurm").source == "Slurm"
    assert not names_several_workers(StrategyConfig())
    assert names_several_workers(StrategyConfig(cluster="slurm"))


@pytest.mark.parametrize(
    ("tasks", "local", "gpus", "on_node", "visible"),
    [
        (1, 0, 4, 4, []),
        (2, 0, 4, 4, [(["GPU:0", "GPU:1"], "GPU")]),
        (2, 1, 4, 4, [(["GPU:2", "GPU:3"], "GPU")]),
        (4, 3, 4, None, [(["GPU:3"], "GPU")]),
        # With --gpus-per-task Slurm shows each task its own alone.
        (2, 1, 2, 4, []),
        (2, 0, 0, None, []),
    ],
)
def test_slurm_tasks_share_the_gpus_of_their_node(monkeypatch, tasks, local, gpus, on_node, visible):
    made_visible = set_gpus(monkeypatch, gpus, on_node)
    set_slurm(monkeypatch, "n1,n2", f"{tasks}(x2)", "n2", local=local, rank=tasks + local, num_tasks=2 * tasks)
    assert find().index == tasks + local
    assert made_visible == visible


def test_slurm_with_more_tasks_than_gpus_on_a_node_is_refused(monkeypatch):
    set_gpus(monkeypatch, 2)
    set_slurm(monkeypatch, "n1", "3", "n1", num_tasks=3)
    assert refusal() == (
        "--cluster=slurm: 3 tasks are on this node with 2 GPU(s); start at most one task a GPU: --ntasks-per-node=2."
    )


def test_slurm_not_started_by_srun_is_refused():
    message = refusal(cluster="slurm")
    assert message.startswith("--cluster=slurm: Slurm's variables name no workers (RuntimeError: SLURM_PROCID not")
    assert message.endswith("; start every worker with srun, in one step.")
    assert names_several_workers(StrategyConfig(cluster="slurm"))  # Which then says so.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLURM_STEP_NUM_TASKS", "3"),
        ("SLURM_STEP_NODELIST", "n[1-"),
        ("SLURM_STEP_TASKS_PER_NODE", "x"),
        ("SLURM_LOCALID", None),
        ("SLURMD_NODENAME", None),
        ("SLURMD_NODENAME", "m7"),
    ],
)
def test_slurm_with_variables_that_do_not_fit_is_refused(monkeypatch, name, value):
    set_slurm(monkeypatch, "n[1-2]", "1(x2)", "n1", num_tasks=2)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    message = refusal()
    assert message.startswith("--cluster=slurm: ")
    assert message.endswith("start every worker with srun, in one step.")


# ---- Kubernetes


def test_job_in_the_documentation_makes_a_tf_config_that_is_taken(monkeypatch):
    page = (pathlib.Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    job = page[page.index("kind: Job") :].partition("```")[0]
    script = job.partition("- |\n")[2].partition("exec ")[0]
    num_workers = {re.search(rf"{name}: \"?(\d+)", job)[1] for name in ("completions", "parallelism", "WORKERS, value")}
    assert num_workers == {"4"}
    environment = os.environ | {"WORKERS": "4", "JOB_COMPLETION_INDEX": "2"}
    command = ["sh", "-ec", script + 'printf %s "$TF_CONFIG"']
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    monkeypatch.setenv("TF_CONFIG", printed)
    assert find() == Cluster(tuple(f"simclr-{number}.simclr:8470" for number in range(4)), 2, "TF_CONFIG")
