"""The interfaces at which a worker listens."""

import socket

import pytest

from tests.support.runs import free_addresses
from tf_simclr.distribution.cluster import Cluster
from tf_simclr.distribution.listening import listening


@pytest.mark.parametrize(
    ("host", "known_as", "others", "bound"),
    [
        ("127.0.0.1", "127.0.0.1", "10.0.0.2", "127.0.0.1"),
        ("localhost", "127.0.0.1", "10.0.0.2", "127.0.0.1"),
        ("host0", "127.0.0.1", "host0", "127.0.0.1"),
        ("host0", "127.0.1.1", "host1", "all"),  # Its own name is a loopback address here, as on Debian.
        ("host0", "192.0.2.1", "host1", "all"),  # No address of this machine: behind a mapped port.
        ("host0", None, "host1", "all"),
    ],
)
def test_worker_listens_at_the_address_that_names_it(monkeypatch, host, known_as, others, bound):
    def resolve(name, port, **others):
        if known_as is None:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (known_as, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    port = int(free_addresses(1)[0].partition(":")[2])
    with listening(Cluster((f"{host}:{port}", f"{others}:{port + 1}"), 0, "TF_CONFIG")) as listeners:
        assert [listener.getsockname()[1] for listener in listeners] == [port]
        address = listeners[0].getsockname()[0]
        assert address == bound or (bound == "all" and address in ("::", "0.0.0.0"))
