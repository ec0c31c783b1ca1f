"""Warns when a server without a login can be reached from other machines."""

from __future__ import annotations

import argparse
import ipaddress
import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)

_START_SERVER_DEFAULT = "0.0.0.0"


def warn_if_exposed(command: Sequence[str]) -> None:
    """Log a warning unless the server listens on this machine alone.

    Args:
        command: The command line of ``monailabel start_server``. It is the one place that says where the server
            listens, which is everywhere unless it is told otherwise; the ASGI app is not told.
    """
    host = listening_host(command)
    if not is_loopback(host):
        logger.warning(
            "Anyone in the network can use this server: it listens on %s without a login. "
            "Start it with --host 127.0.0.1, or with --conf api_keys FILE (scripts/keys makes one)",
            host,
        )


def listening_host(command: Sequence[str]) -> str:
    """The address that the command line tells the server to listen on."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-i", "--host", default=_START_SERVER_DEFAULT)
    host: str = parser.parse_known_args(list(command))[0].host
    return host


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
