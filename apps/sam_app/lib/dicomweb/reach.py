"""Whether the DICOMweb server can be reached when this one starts, for whoever reads its log.

This server starts all the same: the archive can come later, and REST does not need it.
"""

from __future__ import annotations

import logging
import socket
import threading
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies

from lib.base.threads import start_watched

logger = logging.getLogger(__name__)

_PATIENCE_S = 5.0
_PORTS = {"http": 80, "https": 443}


def warn_if_unreachable(url: str) -> threading.Thread:
    """Say so in the log, in a thread of its own, if nothing listens at the address; behind a proxy nobody can tell.

    Args:
        url: Of the DICOMweb root, an address.
    """
    return start_watched("dicomweb-reach", lambda: _look(url))


def _look(url: str) -> None:
    address = urlsplit(url)
    if get_environ_proxies(url):
        return
    try:
        place = (str(address.hostname), address.port or _PORTS[address.scheme])
        socket.create_connection(place, timeout=_PATIENCE_S).close()
    except OSError as error:
        reason = error.strerror or "no answer"
        logger.warning("The DICOMweb server cannot be reached now (%s): its images are missing until it can", reason)
