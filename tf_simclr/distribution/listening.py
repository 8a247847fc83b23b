"""The port of a worker, open only at its address in the list of workers if possible."""

import contextlib
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

from tf_simclr.config import UserError
from tf_simclr.distribution.cluster import Cluster

_LOG = logging.getLogger("tf_simclr")
_BACKLOG = 128


@contextlib.contextmanager
def listening(cluster: Cluster) -> Iterator[list[socket.socket]]:
    """Listens at the address of this worker, or on all interfaces if that is no address of this machine.

    Raises:
        UserError: The port is in use.
    """
    address, port = cluster.addresses[cluster.index], cluster.host_and_port(cluster.index)[1]
    with contextlib.ExitStack() as stack:
        try:
            listeners = [stack.enter_context(one) for one in _listen_at_own_addresses(cluster)]
            if not listeners:
                _LOG.info("Listening on all interfaces: other machines do not reach this one at %s.", address)
                dual = socket.has_dualstack_ipv6()
                family = socket.AF_INET6 if dual else socket.AF_INET
                everywhere = socket.create_server(("", port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
                listeners = [stack.enter_context(everywhere)]
        except OSError as error:
            raise UserError(
                f"{cluster.source}: port {port} of this worker ({address}) cannot be used "
                f"({os.strerror(error.errno or 0)}); stop what uses it - an earlier worker? - or choose another port."
            ) from error
        yield listeners


def _listen_at_own_addresses(cluster: Cluster) -> Iterator[socket.socket]:
    for family, address in _own_addresses(cluster):
        try:
            yield socket.create_server(address, family=family, backlog=_BACKLOG)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise


def _own_addresses(cluster: Cluster) -> list[tuple[socket.AddressFamily, Any]]:
    """Returns what the host of this worker stands for; nothing if only this machine can reach that."""
    host, port = cluster.host_and_port(cluster.index)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    addresses: list[tuple[socket.AddressFamily, Any]] = [(family, address) for family, *_, address in found]
    # Many systems list their own name as a loopback address; other machines know it as another one.
    is_hidden = any(
        ipaddress.ip_address(address[0]).is_loopback and host not in (address[0], "localhost")
        for _, address in addresses
    )
    hosts = {cluster.host_and_port(number)[0] for number in range(len(cluster.addresses))}
    return [] if is_hidden and len(hosts) > 1 else addresses
