"""The workers of a run by `TF_CONFIG` or Slurm, and the number of this process among them."""

import dataclasses
import os
import urllib.parse

import tensorflow as tf

from tf_simclr.config import StrategyConfig, UserError
from tf_simclr.files import listed, one_line, parse_json

_TF_CONFIG_EXAMPLE = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
_TF_CONFIG_FORM = ({"task?": {"type?": str, "index?": (int, str)}}, list)
_WORKER_JOBS = ("chief", "worker")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run.

    Attributes:
        addresses: `host:port` of each worker; the first is the chief.
        index: the number of this worker.
        source: what named them, for messages.

    Raises:
        UserError: an address is not valid, or occurs twice.
    """

    addresses: tuple[str, ...]
    index: int
    source: str

    def __post_init__(self) -> None:
        for number in range(len(self.addresses)):
            self.host_and_port(number)
        twice = sorted({address for address in self.addresses if self.addresses.count(address) > 1})
        if twice:
            raise UserError(f"{self.source}: names {listed(twice)} twice; give each worker an address of its own.")

    def host_and_port(self, number: int) -> tuple[str, int]:
        """Returns where worker `number` listens."""
        address = self.addresses[number]
        try:
            parts = urllib.parse.urlsplit(f"//{address}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or not port or parts.netloc != address:
            raise UserError(
                f"{self.source}: the address {address} of worker {number} is not of the form host:port, with a "
                "port from 1 to 65535; fix it."
            )
        return host, port

    def resolver(self) -> tf.distribute.cluster_resolver.ClusterResolver:
        """Returns the cluster as TensorFlow's strategy takes it."""
        return tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": list(self.addresses)}),
            task_type="worker",
            task_id=self.index,
            # Counted without TensorFlow's runtime, which must not start before the workers meet.
            num_accelerators={"GPU": len(tf.config.get_visible_devices("GPU"))},
            rpc_layer="grpc",
        )


def names_several_workers(config: StrategyConfig) -> bool:
    """Returns whether `config.cluster` or the environment names more than one worker.

    Raises:
        UserError: `TF_CONFIG` cannot be read.
    """
    source = _source(config)
    if source == "tf_config":
        return len(_from_tf_config().addresses) > 1
    return source == "slurm" and os.environ.get("SLURM_STEP_NUM_TASKS") != "1"


def find_cluster(config: StrategyConfig) -> Cluster:
    """Returns the workers that TensorFlow's cluster resolver for `config.cluster` names.

    Under Slurm this process also takes its share of the GPUs of its node.

    Raises:
        UserError: it names no workers, or not this process.
    """
    source = _source(config)
    if source is None:
        raise UserError(
            "--strategy=multi_worker: neither TF_CONFIG nor Slurm names the workers; set TF_CONFIG or start with srun."
        )
    return _from_tf_config() if source == "tf_config" else _from_slurm(config)


def _source(config: StrategyConfig) -> str | None:
    """Returns what names the workers, None if nothing does."""
    if config.cluster != "auto":
        return config.cluster
    if os.environ.get("TF_CONFIG", "").strip() not in ("", "{}"):
        return "tf_config"
    return "slurm" if "SLURM_STEP_NUM_TASKS" in os.environ else None


def _reason(error: BaseException) -> str:
    return one_line(f"{type(error).__name__}: {' '.join(str(error).split())}")


def _from_tf_config() -> Cluster:
    value = "TF_CONFIG=" + " ".join(os.environ.get("TF_CONFIG", "").split())[:200]
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    try:
        parse_json(os.environ.get("TF_CONFIG") or "{}", _TF_CONFIG_FORM)
        jobs, task, index = resolver.cluster_spec(), resolver.task_type, resolver.task_id
        workers = {
            (job, number): jobs.task_address(job, number)
            for job in _WORKER_JOBS
            if job in jobs.jobs
            for number in jobs.task_indices(job)
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{value}: cannot be read ({_reason(error)}); use the form {_TF_CONFIG_EXAMPLE}.") from error
    if not jobs.jobs or task is None or index is None:
        raise UserError(f"{value}: names no cluster or no task; use the form {_TF_CONFIG_EXAMPLE}.")
    others = sorted({*jobs.jobs, task} - {*_WORKER_JOBS})
    if others:
        raise UserError(f"{value}: {listed(others)} cannot take part; leave it out: chief and worker can.")
    if (task, index) not in workers:
        there = listed(f"{job} {number}" for job, number in workers)
        raise UserError(f"{value}: names the task {task} {index}, but its cluster has {there}; use one of them.")
    return Cluster(tuple(workers.values()), list(workers).index((task, index)), "TF_CONFIG")


def _from_slurm(config: StrategyConfig) -> Cluster:
    try:
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=config.cluster_port,
            # Its own assignment would count the GPUs that Slurm has given to one task as those of the node.
            gpus_per_node=2**16,
            gpus_per_task=1,
            auto_set_gpu=False,
        )
        addresses = tuple(resolver.cluster_spec().as_dict()["worker"])
        node, local_task = os.environ["SLURMD_NODENAME"], int(os.environ["SLURM_LOCALID"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--cluster=slurm: Slurm's variables name no workers ({_reason(error)}); start every worker with "
            "srun, in one step."
        ) from error
    # The resolver sorts the nodes by name, n10 before n9, so SLURM_PROCID is not the index.
    own = f"{node}:{config.cluster_port + local_task}"
    if own not in addresses:
        raise UserError(
            f"--cluster=slurm: SLURMD_NODENAME and SLURM_LOCALID name {own}, which is not one of the workers "
            f"{listed(addresses)}; start every worker with srun, in one step."
        )
    cluster = Cluster(addresses, addresses.index(own), "Slurm")
    tasks_here = sum(cluster.host_and_port(n)[0] == node.lower() for n in range(len(addresses)))
    _take_own_gpus(local_task, tasks_here)
    return cluster


def _take_own_gpus(local_task: int, tasks_here: int) -> None:
    """Leaves this task its share of the node's GPUs, unless Slurm shows each task only its own."""
    gpus = tf.config.list_physical_devices("GPU")
    if tasks_here == 1 or not gpus or len(gpus) < int(os.environ.get("SLURM_GPUS_ON_NODE", len(gpus))):
        return
    share = len(gpus) // tasks_here
    if not share:
        raise UserError(
            f"--cluster=slurm: {tasks_here} tasks are on this node with {len(gpus)} GPU(s); start at most one "
            f"task a GPU: --ntasks-per-node={len(gpus)}."
        )
    tf.config.set_visible_devices(gpus[local_task * share : (local_task + 1) * share], "GPU")
