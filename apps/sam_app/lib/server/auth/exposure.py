"""Warning at start if a server without a login can be reached from other machines."""

from __future__ import annotations

import argparse
import ipaddress
import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)

_DEFAULT_HOST = "0.0.0.0"  # noqa: S104 - upstream's default, compared


def warn_if_exposed(command: Sequence[str]) -> None:
    """Log a warning unless the server can be reached only from this machine.

    Args:
        command: The command line of ``monailabel start_server``. Only there the listening address is known (by default
            all addresses); the ASGI app does not get it.
    """
    host = listening_host(command)
    if not is_loopback(host):
        logger.warning(
            "Anyone in the network can use this server: it listens on %s without a login. "
            "Start it with --host 127.0.0.1, or with --conf api_keys FILE (scripts/keys makes one)",
            host,
        )


def listening_host(command: Sequence[str]) -> str:
    """Return the address on which the server listens according to its command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-i", "--host", default=_DEFAULT_HOST)
    return parser.parse_known_args(list(command))[0].host


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
