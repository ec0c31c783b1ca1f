"""Fixes of how MONAI Label 0.8.5 talks to a DICOMweb server.

- It waits without a time limit, also where bytes come one by one, and turns the server's failures into a bare 500.
- It requests one media type, and stops where the server knows that type by another name.
- It follows redirects to any machine. Here only redirects within the server's own address are followed.

All requests to the DICOMweb server go through one :class:`DicomWebSession`. It has the login and a time limit. Its
errors can be shown to clients: they contain neither the server's address nor its login.
"""

import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.utils import get_environ_proxies

from lib.base.clock import current_clock
from lib.base.threads import start_watched

logger = logging.getLogger(__name__)

AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""``Accept`` for instances in the transfer syntax in which the server stores them: PS3.18 8.7.3.5.2."""

_CONNECT_S = 5.0
_PORTS = {"http": 80, "https": 443}
_PIECE_BYTES = 1 << 20
_JSON = "application/dicom+json, application/json"
"""``Accept`` that dicomweb-client sends for JSON."""
_EQUIVALENT_TYPES = {
    AS_STORED: ('multipart/related; type="application/dicom"', "multipart/related; type=application/dicom", "*/*"),
    _JSON: ("application/dicom+json", "application/json", "*/*"),
}
"""By ``Accept``: equivalent values, for servers that compare it as text and do not parse it as PS3.18 8.7.4 says."""
_TYPE_REFUSED = {AS_STORED: (204, 400, 404, 406, 415), _JSON: (406, 415)}
"""By ``Accept``: the statuses with which servers refuse this media type."""


class DicomWebError(RuntimeError):
    """A request to the DICOMweb server failed."""


class DicomWebUnreachableError(DicomWebError):
    """The DICOMweb server sent no response, or not in time."""


class SeriesGoneError(DicomWebError):
    """The DICOMweb server responded that it does not have the series."""


class DicomWebStatusError(DicomWebError):
    """The DICOMweb server responded with an error status.

    Args:
        status: The HTTP status.
    """

    def __init__(self, status: int) -> None:
        self.status = status
        if status in (401, 403, 407):
            reason = (
                "refuses this server's login: the operator sets it with MONAI_LABEL_DICOMWEB_USERNAME and "
                "MONAI_LABEL_DICOMWEB_PASSWORD"
            )
        else:
            reason = f"returned status {status}"
        super().__init__(f"the DICOMweb server {reason}")


class DicomWebSession(requests.Session):
    """HTTP session with the DICOMweb server; thread-safe.

    Args:
        login: Name and password, for Basic authentication.
        timeout: Seconds to wait for the next bytes of a response.
    """

    def __init__(self, login: tuple[str, str] | None, timeout: float) -> None:
        super().__init__()
        self.auth = login
        self._timeout = (_CONNECT_S, timeout)
        self._accepted: dict[str, str] = {}

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        """Send a request and return its successful response, if need be under another name of the media type.

        Args and result are those of ``requests.Session.request``, but an error status raises.

        Raises:
            DicomWebUnreachableError: If the server cannot be reached, or does not respond in time.
            DicomWebStatusError: If it responds with an error status.
            TimeLimitError: If the current clock's time is up before the whole response has arrived.
        """
        clock = current_clock()
        clock.check()
        kwargs["timeout"] = tuple(min(seconds, clock.remaining) for seconds in self._timeout)
        headers = kwargs.pop("headers", None) or {}
        accept = headers.get("Accept", "")
        if accept not in _EQUIVALENT_TYPES:
            return self._send_once(method, url, *args, headers=headers, **kwargs)
        first: DicomWebStatusError | None = None
        for name in dict.fromkeys((self._accepted.get(accept, accept), accept, *_EQUIVALENT_TYPES[accept])):
            try:
                answer = self._send_once(method, url, *args, headers={**headers, "Accept": name}, **kwargs)
                if answer.status_code not in _TYPE_REFUSED[accept]:
                    self._accepted[accept] = name
                    return answer
                answer.close()
                error = DicomWebStatusError(answer.status_code)
            except DicomWebStatusError as raised:
                error = raised
            if error.status not in _TYPE_REFUSED[accept]:
                raise error
            first = first or error
        assert first is not None
        raise first

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return the URL to which a response redirects; None if it is on another server, which is then an error."""
        target = super().get_redirect_target(resp)
        here, there = urlsplit(resp.url), urlsplit(urljoin(resp.url, target or ""))
        return target if (here.scheme, here.netloc) == (there.scheme, there.netloc) else None

    def _send_once(self, method: str, url: str, *args: Any, stream: bool = False, **kwargs: Any) -> requests.Response:
        try:
            answer = super().request(method, url, *args, **{**kwargs, "stream": True})
            if not stream:
                answer._content = b"".join(pieces(answer))
        except requests.RequestException as error:
            raise unreachable_error(error) from error
        if answer.status_code >= 400 or answer.is_redirect:  # a redirect that was not followed
            answer.close()
            raise DicomWebStatusError(answer.status_code)
        if method == "POST":  # dicomweb-client parses the STOW-RS response only if its type has no parameters
            answer.headers["Content-Type"] = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        return answer


def pieces(answer: requests.Response) -> Iterator[bytes]:
    """Yield the decompressed body of a streamed response as it arrives; on an error, close the connection.

    Raises:
        TimeLimitError: If the current clock's time is up: a time limit for the next bytes does not bound all of them.
        requests.RequestException: If the connection breaks.
    """
    clock = current_clock()
    try:
        while piece := answer.raw.read1(_PIECE_BYTES, decode_content=True):
            yield piece
            clock.check()
    except urllib3.exceptions.DecodeError as error:
        answer.close()
        raise requests.exceptions.ContentDecodingError(error) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        answer.close()
        is_late = isinstance(error, (TimeoutError, urllib3.exceptions.TimeoutError))
        raise (requests.ReadTimeout if is_late else requests.ConnectionError)(error) from error
    except BaseException:
        answer.close()
        raise


def unreachable_error(error: Exception) -> DicomWebError:
    """Return the error to raise for a failed connection."""
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return DicomWebError("the DICOMweb server's response cannot be decompressed")
    if isinstance(error, requests.Timeout):
        return DicomWebUnreachableError("the DICOMweb server did not respond in time")
    return DicomWebUnreachableError("the DICOMweb server cannot be reached")


def warn_if_unreachable(url: str) -> threading.Thread:
    """Start a thread that logs a warning if nothing listens at the address; with a proxy it checks nothing.

    This server starts anyway: the archive can be started later, and REST does not need it.

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
