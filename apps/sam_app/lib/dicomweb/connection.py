"""Mends of how MONAI Label 0.8.5 talks to a DICOMweb server.

- It waits without end, also where bytes come one by one, and answers the server's failures with a bare 500.
- It asks for one media type, and gives up where the server knows it by another name.
- It goes wherever the server redirects it, to other machines as well. Here it stays at the server's own address.

Whatever is asked of the DICOMweb server goes through one :class:`DicomWebSession`. It has the login and a time limit,
and its errors are for clients to read: they name neither the server's address nor its login.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from lib.base.clock import current_clock

AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""``Accept`` for instances in whatever transfer syntax the server has them: PS3.18 8.7.3.5.2."""

_CONNECT_S = 5.0
_PIECE = 1 << 20
_JSON = "application/dicom+json, application/json"
"""What dicomweb-client asks for."""
_OTHER_NAMES = {
    AS_STORED: ('multipart/related; type="application/dicom"', "multipart/related; type=application/dicom", "*/*"),
    _JSON: ("application/dicom+json", "application/json", "*/*"),
}
"""By ``Accept``: what else means the same, for servers that read it as a text and not as PS3.18 8.7.4 says."""
_NOT_ACCEPTED = {AS_STORED: (204, 400, 404, 406, 415), _JSON: (406, 415)}
"""The statuses with which servers refuse a media type."""


class DicomWebError(RuntimeError):
    """The DICOMweb server did not do what it was asked to."""


class DicomWebUnreachableError(DicomWebError):
    """There is no answer from it."""


class SeriesGoneError(DicomWebError):
    """It answered, and does not have the series."""


class DicomWebStatusError(DicomWebError):
    """It answered with an error.

    Args:
        status: The HTTP status.
    """

    def __init__(self, status: int) -> None:
        self.status = status
        if status in (401, 403, 407):
            reason = (
                "refuses this server's login: whoever runs this server sets it with MONAI_LABEL_DICOMWEB_USERNAME and "
                "MONAI_LABEL_DICOMWEB_PASSWORD"
            )
        else:
            reason = f"answered {status}"
        super().__init__(f"the DICOMweb server {reason}")


class DicomWebSession(requests.Session):
    """Requests to the DICOMweb server; may be used by several threads.

    Args:
        login: Name and password, for Basic authentication.
        timeout: Seconds to wait for its next bytes.
    """

    def __init__(self, login: tuple[str, str] | None, timeout: float) -> None:
        super().__init__()
        self.auth = login
        self._timeout = (_CONNECT_S, timeout)
        self._accepted: dict[str, str] = {}

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        """As in requests, but every answer is one of success; where need be by another name of the media type.

        Raises:
            DicomWebUnreachableError: If it cannot be reached, or does not answer in time.
            DicomWebStatusError: If it answers with an error.
            TimeLimitError: If the current clock's time is up before all of the answer has come.
        """
        clock = current_clock()
        clock.check()
        kwargs["timeout"] = tuple(min(seconds, clock.remaining) for seconds in self._timeout)
        headers = kwargs.pop("headers", None) or {}
        accept = headers.get("Accept", "")
        if accept not in _OTHER_NAMES:
            return self._ask(method, url, *args, headers=headers, **kwargs)
        first: DicomWebStatusError | None = None
        for name in dict.fromkeys((self._accepted.get(accept, accept), accept, *_OTHER_NAMES[accept])):
            try:
                answer = self._ask(method, url, *args, headers={**headers, "Accept": name}, **kwargs)
                if answer.status_code not in _NOT_ACCEPTED[accept]:
                    self._accepted[accept] = name
                    return answer
                answer.close()
                error = DicomWebStatusError(answer.status_code)
            except DicomWebStatusError as raised:
                error = raised
            if error.status not in _NOT_ACCEPTED[accept]:
                raise error
            first = first or error
        assert first is not None
        raise first

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where an answer redirects to; None if it leaves the server, which is then an error."""
        target = super().get_redirect_target(resp)
        here, there = urlsplit(resp.url), urlsplit(urljoin(resp.url, target or ""))
        return target if (here.scheme, here.netloc) == (there.scheme, there.netloc) else None

    def _ask(self, method: str, url: str, *args: Any, stream: bool = False, **kwargs: Any) -> requests.Response:
        try:
            answer = super().request(method, url, *args, **{**kwargs, "stream": True})
            if not stream:
                answer._content = b"".join(pieces(answer))
        except requests.RequestException as error:
            raise unreachable(error) from error
        if answer.status_code >= 400 or answer.is_redirect:  # one that was not followed
            answer.close()
            raise DicomWebStatusError(answer.status_code)
        if method == "POST":  # dicomweb-client knows what was stored by a type without parameters
            answer.headers["Content-Type"] = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        return answer


def pieces(answer: requests.Response) -> Iterator[bytes]:
    """The body of a streamed answer as its bytes come in, decompressed; the connection is closed where it ends early.

    Raises:
        TimeLimitError: If the current clock's time is up: a time limit for the next bytes does not bound all of them.
        requests.RequestException: If the connection breaks off.
    """
    clock = current_clock()
    try:
        while piece := answer.raw.read1(_PIECE, decode_content=True):
            yield piece
            clock.check()
    except (urllib3.exceptions.HTTPError, OSError) as error:
        answer.close()
        is_late = isinstance(error, (TimeoutError, urllib3.exceptions.TimeoutError))
        raise (requests.ReadTimeout if is_late else requests.ConnectionError)(error) from error
    except BaseException:
        answer.close()
        raise


def unreachable(error: Exception) -> DicomWebUnreachableError:
    """The error that a failed connection is told as."""
    if isinstance(error, requests.Timeout):
        return DicomWebUnreachableError("the DICOMweb server does not answer in time")
    return DicomWebUnreachableError("the DICOMweb server cannot be reached")
