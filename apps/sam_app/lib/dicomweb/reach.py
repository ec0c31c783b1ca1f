"""Log line at start if the DICOMweb server cannot be reached.

This server starts anyway: the archive can be started later, and REST does not need it.
"""

from __future__ import annotations

import logging
import socket
import threading
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies

from lib.base.threads import start_watched

logger = logging.getLogger(__name__)

_CONNECT_S = 5.0
_PORTS = {"http": 80, "https": 443}


def warn_if_unreachable(url: str) -> threading.Thread:
    """Start a thread that logs a warning if nothing listens at the address; with a proxy it checks nothing.

    Args:
        url: URL of the DICOMweb root; must be valid.
    """
    return start_watched("dicomweb-reach", lambda: _try_to_connect(url))


def _try_to_connect(url: str) -> None:
    address = urlsplit(url)
    if get_environ_proxies(url):
        return
    try:
        place = (str(address.hostname), address.port or _PORTS[address.scheme])
        socket.create_connection(place, timeout=_CONNECT_S).close()
    except OSError as error:
        reason = error.strerror or "no response"
        logger.warning("The DICOMweb server cannot be reached now (%s): its images are missing until it can", reason)
