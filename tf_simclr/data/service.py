"""Training batches from a tf.data service: processes on other machines."""

import queue
import socket
import threading
import urllib.parse
from typing import NamedTuple

import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.data.source import Source

# Data in memory is sent to the data workers in one message, which TensorFlow limits to 2 GiB.
_MAX_BYTES_SENT = 3 * 2**29
_DISPATCHER_SECONDS = 10
_DATA_WORKER_SECONDS = 60


class DataService(NamedTuple):
    """A data service that makes the batches.

    Attributes:
        address: Address of the dispatcher, grpc://host:port.
        job_name: Clients with the same name share the batches of one job; None for a private job.
    """

    address: str
    job_name: str | None

    def check_fits(self, source: Source) -> None:
        """Raises UserError if the data in memory is too large to send to data workers."""
        if source.bytes_in_memory > _MAX_BYTES_SENT:
            raise UserError(
                f"--data_service={self.address}: {source.name} holds {source.bytes_in_memory / 2**30:.1f} GiB in "
                f"memory, of which {_MAX_BYTES_SENT / 2**30:.1f} GiB can be sent to data workers; use "
                "--cache_dataset=False or fewer labels, or leave the flag out."
            )

    def distribute(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Returns the batches of the data workers, each once, in any order.

        Each element of the first data set of the pipeline goes to one data worker.

        Raises:
            UserError: If the dispatcher refuses them.
        """
        policy = tf.data.experimental.service.ShardingPolicy.DYNAMIC
        try:
            return batches.apply(tf.data.experimental.service.distribute(policy, self.address, job_name=self.job_name))
        except (tf.errors.OpError, ValueError) as error:
            raise _refused(self.address, error) from error


def check_service(address: str) -> None:
    """Asks a dispatcher for an element, because TensorFlow itself would wait without end.

    Raises:
        UserError: If no dispatcher answers in 10 seconds, or none of its data workers in 60.
    """
    place = urllib.parse.urlsplit(address)
    try:
        socket.create_connection((place.hostname, place.port), timeout=_DISPATCHER_SECONDS).close()
    except OSError as error:
        raise _problem(address, f"no dispatcher answers ({error.strerror or error})", "start one") from error
    answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            element = DataService(address, None).distribute(tf.data.Dataset.range(1))
            answers.put(None)
            next(iter(element))
            answers.put(None)
        except (UserError, tf.errors.OpError) as error:
            answers.put(error)

    # TensorFlow has no timeout here; a daemon thread lets the program end.
    threading.Thread(target=ask, daemon=True).start()
    for what, seconds in (("dispatcher", _DISPATCHER_SECONDS), ("data worker", _DATA_WORKER_SECONDS)):
        try:
            problem = answers.get(timeout=seconds)
        except queue.Empty:
            raise _problem(address, f"no {what} answers within {seconds} s", "start one") from None
        if problem is not None:
            raise problem if isinstance(problem, UserError) else _refused(address, problem)


def _refused(address: str, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    fix = "name a dispatcher of this TensorFlow's data service"
    return _problem(address, f"cannot make this run's batches ({reason})", fix)


def _problem(address: str, what: str, fix: str) -> UserError:
    return UserError(f"--data_service={address}: {what}; {fix} (docs/scaling.md, Data service), or leave the flag out.")
