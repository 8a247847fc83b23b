"""The workers of a run: where they are, whether all have come, and whether all were started alike."""

import contextlib
import dataclasses
import json
import logging
import os
import socket
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tf_simclr.config import StrategyConfig, UserError
from tf_simclr.mismatch import listed

_LOG = logging.getLogger("tf_simclr")
_SECONDS_TO_ANSWER = 5.0
_RETRY_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run.

    Attributes:
        addresses: `host:port` of each worker; the first is the chief.
        index: the number of this worker.
        source: what named them, for messages.
    """

    addresses: tuple[str, ...]
    index: int
    source: str

    def resolver(self) -> tf.distribute.cluster_resolver.ClusterResolver:
        """Returns what TensorFlow makes its strategy from."""
        return tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": list(self.addresses)}),
            task_type="worker",
            task_id=self.index,
            # Counted without starting TensorFlow's runtime, which must not be up before the workers meet.
            num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
            rpc_layer="grpc",
        )


def names_several_workers() -> bool:
    """Returns whether the environment of this process names more than one worker.

    Raises:
        UserError: `TF_CONFIG` cannot be read.
    """
    if os.environ.get("TF_CONFIG", "{}") != "{}":
        return len(_from_tf_config().addresses) > 1
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def find_cluster(config: StrategyConfig) -> Cluster:
    """Returns the workers that TensorFlow's cluster resolver for `config.cluster` names.

    Raises:
        UserError: it names none, or not this process.
    """
    source = config.cluster
    if source == "auto":
        source = "tf_config" if "TF_CONFIG" in os.environ else "slurm"
        if source == "slurm" and "SLURM_PROCID" not in os.environ:
            raise UserError(
                "--strategy=multi_worker: neither TF_CONFIG nor Slurm names the workers; set TF_CONFIG, start "
                "with srun, or use --cluster=kubernetes."
            )
    if source == "kubernetes":
        return _from_kubernetes(config)
    return _from_tf_config() if source == "tf_config" else _from_slurm(config)


def _from_tf_config() -> Cluster:
    example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
    text = os.environ.get("TF_CONFIG", "")
    try:
        settings = json.loads(text)
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        jobs = resolver.cluster_spec().as_dict()
        task, number = settings["task"]["type"], int(settings["task"]["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"TF_CONFIG={text[:200]}: cannot be read ({reason}); use the form {example}."
        ) from error
    unknown = sorted(jobs.keys() - {"chief", "worker"})
    if unknown or task not in jobs:
        raise UserError(
            f"TF_CONFIG: names the task {task} and the jobs {', '.join(sorted(jobs)) or '(none)'}; only chief "
            "and worker take part, so leave the others out."
        )
    tasks = [(job, index) for job in ("chief", "worker") for index in range(len(jobs.get(job, ())))]
    if (task, number) not in tasks:
        raise UserError(
            f"TF_CONFIG: names task {task} {number}, but its cluster has {len(jobs[task])} of {task}; use an "
            f"index from 0 to {len(jobs[task]) - 1}."
        )
    addresses = tuple(jobs[job][index] for job, index in tasks)
    return _checked(Cluster(addresses, tasks.index((task, number)), "TF_CONFIG"))


def _from_slurm(config: StrategyConfig) -> Cluster:
    gpus = len(tf.config.list_physical_devices("GPU"))
    # Without GPUs TensorFlow's resolver would share out none, and with them the tasks too.
    settings = {} if gpus else {"gpus_per_node": 2**16, "gpus_per_task": 1, "auto_set_gpu": False}
    try:
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=config.cluster_port, **settings
        )
        addresses = tuple(resolver.cluster_spec().as_dict()["worker"])
        index = resolver.get_task_info()[1]
    except (KeyError, ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"--cluster=slurm: Slurm's variables name no workers ({type(error).__name__}: {error}); start every "
            "worker with srun, in one step."
        ) from error
    return _checked(Cluster(addresses, index, "Slurm"))


def _from_kubernetes(config: StrategyConfig, client: Any = None) -> Cluster:
    selector = config.kubernetes_selector
    host = os.environ.get("HOST_IP", "")
    try:
        resolver = tf.distribute.cluster_resolver.KubernetesClusterResolver(
            {"worker": [selector]}, tf_server_port=config.cluster_port, override_client=client
        )
        deadline = time.monotonic() + config.cluster_timeout
        while True:
            try:
                addresses = tuple(resolver.cluster_spec().as_dict().get("worker", ()))
                break
            except RuntimeError:  # A pod of the job is not running yet.
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)
    except Exception as error:  # The client's own types are known only where it is installed.
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"--cluster=kubernetes: no pods of {selector} ({reason}); install the package kubernetes, give the "
            "pod the right to list pods, and name them with --kubernetes_selector."
        ) from error
    own = f"{host}:{config.cluster_port}"
    if own not in addresses:
        raise UserError(
            f"--cluster=kubernetes: HOST_IP={host or '(not set)'} is none of the workers {listed(addresses)}; "
            "set it from status.hostIP in the pod's specification."
        )
    return _checked(Cluster(addresses, addresses.index(own), "Kubernetes"))


def _checked(cluster: Cluster) -> Cluster:
    for address in cluster.addresses:
        _split(address, cluster.source)
    twice = sorted({a for a in cluster.addresses if cluster.addresses.count(a) > 1})
    if twice:
        raise UserError(f"{cluster.source}: names {', '.join(twice)} twice; give each worker its own port.")
    return cluster


def _split(address: str, source: str) -> tuple[str, int]:
    try:
        parts = urllib.parse.urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise UserError(f"{source}: the worker's address {address} is not of the form host:port; mend it.")
    return host, port


def meet(cluster: Cluster, settings: Mapping[str, Any], timeout: float) -> None:
    """Waits until every worker has come; TensorFlow would wait for a missing one without end.

    Each worker listens on its own port and reports to the chief, which tries every address, compares the
    settings and then lets all of them go on, or tells all of them what is wrong.

    Args:
        cluster: the workers.
        settings: of the run, which have to be the same everywhere; values that JSON can hold.
        timeout: seconds to wait.

    Raises:
        UserError: a worker does not come, was started with other settings, or the port is in use.
    """
    own = cluster.addresses[cluster.index]
    report = {"worker": cluster.index, "settings": dict(settings), "addresses": list(cluster.addresses)}
    deadline = time.monotonic() + timeout
    _LOG.info("Waiting for %d workers (%s).", len(cluster.addresses), ", ".join(cluster.addresses))
    with _listen(own, cluster.source) as listener:
        if cluster.index:
            problem = _report_to_chief(cluster, report, deadline)
        else:
            problem = _receive_reports(listener, cluster, report, deadline)
    if problem:
        raise UserError(problem)


def _listen(address: str, source: str) -> socket.socket:
    port = _split(address, source)[1]
    dual = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            ("", port), family=socket.AF_INET6 if dual else socket.AF_INET, backlog=128, dualstack_ipv6=dual
        )
    except OSError as error:
        raise UserError(
            f"{source}: port {port} of this worker ({address}) cannot be used ({error.strerror or error}); stop "
            "what uses it - an earlier worker? - or choose another port."
        ) from error


def _receive_reports(listener: socket.socket, cluster: Cluster, own: dict, deadline: float) -> str | None:
    """Receives the report of every other worker; returns what is wrong, which it has told them."""
    connections: dict[int, socket.socket] = {}
    problem = None
    try:
        while problem is None and len(connections) < len(cluster.addresses) - 1:
            listener.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                problem = _missing(cluster, {0, *connections})
                break
            report = _read(connection, _SECONDS_TO_ANSWER)
            if not isinstance(number := report.get("worker"), int):
                connection.close()  # None of ours.
                continue
            problem = f"worker {number} has come twice; start each once." if number in connections else None
            problem = problem or _difference(own, report) or _unreachable(cluster, number)
            connections[-1 if number in connections else number] = connection
        for connection in connections.values():
            with contextlib.suppress(OSError):  # One that has gone will be missed soon enough.
                _send(connection, {"problem": problem})
    finally:
        for connection in connections.values():
            connection.close()
    return problem


def _report_to_chief(cluster: Cluster, report: dict, deadline: float) -> str | None:
    address = _split(cluster.addresses[0], cluster.source)
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(address, timeout=_SECONDS_TO_ANSWER) as connection:
                _send(connection, report)
                answer = _read(connection, max(deadline - time.monotonic(), 0) + _SECONDS_TO_ANSWER)
        except OSError:
            answer = {}
        if "problem" in answer:
            return answer["problem"]
        time.sleep(_RETRY_SECONDS)  # Not there yet, or what is there is a worker of an earlier start.
    return _missing(cluster, set(range(1, len(cluster.addresses))))


def _missing(cluster: Cluster, present: set[int]) -> str:
    absent = [f"{n} ({a})" for n, a in enumerate(cluster.addresses) if n not in present]
    return (
        f"--cluster_timeout: worker {', '.join(absent)} of {cluster.source} has not come; start it, check its "
        "address and the firewall, or wait longer."
    )


def _difference(ours: dict, theirs: dict) -> str | None:
    number = theirs["worker"]
    if ours["addresses"] != theirs["addresses"]:
        return (
            f"worker {number} was started with the workers {', '.join(theirs['addresses'])}, worker 0 with "
            f"{', '.join(ours['addresses'])}; name the same everywhere."
        )
    names = ours["settings"].keys() | theirs["settings"].keys()
    pairs = {name: (ours["settings"].get(name), theirs["settings"].get(name)) for name in sorted(names)}
    changed = [
        f"--{name}={a} at worker 0, {b} at worker {number}" for name, (a, b) in pairs.items() if a != b
    ]
    return f"{listed(changed)}: start all workers with the same flags." if changed else None


def _unreachable(cluster: Cluster, number: int) -> str | None:
    address = cluster.addresses[number]
    try:
        socket.create_connection(_split(address, cluster.source), timeout=_SECONDS_TO_ANSWER).close()
    except OSError as error:
        return (
            f"{cluster.source}: worker {number} has come, but nothing answers at its address {address} "
            f"({error.strerror or error}); mend the address or the firewall."
        )
    return None


def _send(connection: socket.socket, content: dict) -> None:
    connection.sendall(json.dumps(content).encode() + b"\n")


def _read(connection: socket.socket, timeout: float) -> dict:
    """Returns the JSON object of one line, {} where something else, or nothing, comes."""
    connection.settimeout(timeout)
    try:
        with connection.makefile("rb") as file:
            content = json.loads(file.readline(2**20))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
