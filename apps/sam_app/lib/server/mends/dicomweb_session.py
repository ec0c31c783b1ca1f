"""Mend: MONAI Label 0.8.5 waits for a DICOMweb server without end, and answers its failures with a bare 500.

Whatever is asked of the DICOMweb server goes through one :class:`DicomWebSession`. It has the login and a time limit,
and its errors are for clients to read: they name neither the server's address nor its login.
"""

from __future__ import annotations

from typing import Any

import requests

_CONNECT_S = 5.0


class DicomWebError(RuntimeError):
    """The DICOMweb server did not do what it was asked to."""


class DicomWebUnreachableError(DicomWebError):
    """There is no answer from it."""


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

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        """As in requests, but every answer is one of success.

        Raises:
            DicomWebUnreachableError: If it cannot be reached, or does not answer in time.
            DicomWebStatusError: If it answers with an error.
        """
        kwargs.setdefault("timeout", self._timeout)
        try:
            answer = super().request(method, url, *args, **kwargs)
        except requests.RequestException as error:
            raise unreachable(error) from error
        if answer.status_code >= 400 or answer.is_redirect:  # that is followed unless the caller forbids it
            answer.close()
            raise DicomWebStatusError(answer.status_code)
        return answer


def unreachable(error: Exception) -> DicomWebUnreachableError:
    """The error that a failed connection is told as."""
    if isinstance(error, requests.Timeout):
        return DicomWebUnreachableError("the DICOMweb server does not answer in time")
    return DicomWebUnreachableError("the DICOMweb server cannot be reached")
