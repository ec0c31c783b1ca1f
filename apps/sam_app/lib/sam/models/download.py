"""Resumable download of one large file, to a temporary name until the caller has verified it.

This is the only module of the engine that opens a connection, and only ``scripts/weights download`` and
``scripts/bundle make`` call it. Own code: no installed package resumes by If-Range and checks redirects by the same
rule as the first address.
"""

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tqdm import tqdm

from lib.base.locks import lock

_BLOCK = 1 << 18
_TIMEOUT_S = 60.0

Progress = bool | Callable[[int], object]
"""Whether to show a bar on stderr, or what to call with the number of bytes whenever some are there."""


class DownloadError(RuntimeError):
    """The file could not be downloaded; the message is one line."""


def check_url(url: str) -> None:
    """Raise :class:`DownloadError` for a URL that is neither https nor http to this machine itself."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        return
    raise DownloadError(f"only https is downloaded from, not {parts.scheme}://{parts.hostname}")


def fetch(url: str, part: Path, *, progress: Progress = True) -> None:
    """Download ``url`` to ``part``, continuing from where an earlier call was interrupted.

    A small file next to ``part``, with the suffix ``.etag``, stores the version of the content.

    Args:
        url: The file's address.
        part: The temporary file, in the final file's folder; the caller checks and renames it.
        progress: Whether to show a bar on stderr, or what is told of bytes that are there, also from earlier calls.

    Raises:
        DownloadError: If the content could not be downloaded. The received part stays for the next call.
    """
    check_url(url)
    try:
        with part.open("ab") as file:
            if not lock(file.fileno(), wait=False):
                raise DownloadError(f"another download of {part.stem} is running")
            _fetch(url, file, part.with_name(part.name + ".etag"), progress)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{_host(url)} answered {error.code} {error.reason} for {url}") from error
    except urllib.error.URLError as error:
        raise DownloadError(f"{_host(url)} cannot be reached: {error.reason}") from error
    except http.client.HTTPException as error:
        raise DownloadError(f"the answer of {_host(url)} was broken: {error!r}") from error
    except OSError as error:
        raise DownloadError(f"the download from {_host(url)} failed: {error}") from error


def discard(part: Path) -> None:
    """Remove the files that :func:`fetch` left."""
    part.unlink(missing_ok=True)
    part.with_name(part.name + ".etag").unlink(missing_ok=True)


def _fetch(url: str, file: IO[bytes], etag: Path, progress: Progress) -> None:
    received = file.seek(0, 2)
    version = etag.read_text(encoding="latin-1") if etag.exists() else ""
    headers = {"User-Agent": "sam-app", "Accept-Encoding": "identity"}
    if received and version:
        headers |= {"Range": f"bytes={received}-", "If-Range": version}
    try:
        response = _OPENER.open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S)  # noqa: S310 - check_url lets https alone pass, and http on this machine
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{received}":
            return _tell(progress, received)  # it was already complete
        if error.code == 416:
            file.truncate(0)
            etag.unlink()
            return _fetch(url, file, etag, progress)
        raise
    with response:
        start, total = _extent(response, received)
        if start != received:
            file.truncate(start)
            file.seek(start)
        etag.write_text(_version(response), encoding="latin-1")
        _copy(response, file, start, total, progress)


def _copy(response: Any, file: IO[bytes], start: int, total: int | None, progress: Progress) -> None:
    bar = tqdm(
        total=total,
        initial=start,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=progress is not True,
        miniters=1,
    )
    _tell(progress, start)
    with bar:
        while block := response.read(_BLOCK):
            file.write(block)
            bar.update(len(block))
            _tell(progress, len(block))
    file.flush()
    size = file.tell()
    if total is not None and size != total:
        raise DownloadError(f"the connection was cut at {size} of {total} bytes; the same command goes on from there")


def _tell(progress: Progress, count: int) -> None:
    if callable(progress):
        progress(count)


def _extent(response: Any, received: int) -> tuple[int, int | None]:
    """Return the offset of a response's content, and the length of the whole file if the server states it."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != received:
            raise DownloadError("the server answered another range than was asked for")
        return received, int(match[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length else None


def _version(response: Any) -> str:
    """Return a validator for If-Range (RFC 9110, 13.1.5): a strong ETag, else the date, else an empty string."""
    etag: str = response.headers.get("ETag") or ""
    return etag if etag.startswith('"') else response.headers.get("Last-Modified") or ""


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Handler of redirects that checks each by the same rule as the first URL."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_CheckedRedirects)
