"""Fixes of MONAI Label 0.8.5's DICOMweb proxy, through which OHIF gets its images.

- It requests any path of the DICOM server's machine, with its password: ``/proxy/dicom/%2e%2e/…`` leaves the DICOMweb
  root, and with GET and POST reaches the DICOM server's administration. Here a path must be a resource of DICOMweb
  (PS3.18): studies, series or instances, and plain segments below.
- It drops the query, so that every search finds everything, and ``Accept``, so that frames come in a format that the
  viewer cannot read. Here both are forwarded. With POST it forwards all headers, including cookies and logins for this
  server. Here only those in :data:`_FORWARDED_HEADERS` are forwarded, and the login is this server's.
- It waits on the event loop, so that no other request is served meanwhile, and reads the whole response before it sends
  the first byte. Here it waits in threads of its own and streams the response.
- It does not record what it sends. Here it records the instances in the metadata by which a viewer reads a series,
  as its clicks name slices of that: see :mod:`lib.studies.displayed_images`.
- It lets everybody who may view images store objects, including segmentations. Here that needs the role for labels.
- It passes on a refused login, so that the viewer's user is asked for the DICOM server's password. Here it is a 502.
"""

import io
import json
import re
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import requests
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import StreamingResponse
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance

from lib.dicomweb.connection import DicomWebStatusError
from lib.dicomweb.datastore import DicomWebStore
from lib.dicomweb.search import INSTANCE, SERIES, STUDY, first_value
from lib.dicomweb.series import token_of_instances
from lib.server.auth.roles import LABELLING, SegmentingUser
from lib.studies.displayed_images import Viewer, current_viewer, displayed_images, note_viewer

router = APIRouter(include_in_schema=False)

_RESOURCE = re.compile(r"(studies|series|instances)(/(?!\.{1,2}(/|$))[A-Za-z0-9._,~-]+)*/?")
_METADATA = re.compile(r"studies/[0-9.]+/(series/[0-9.]+/)?metadata")
_FORWARDED_HEADERS = ("accept", "accept-encoding", "content-type")
_RETURNED_HEADERS = ("content-type", "content-length", "content-encoding", "warning")
_CLIENT_ERRORS = (400, 404, 406, 409, 410, 413, 414, 415)
"""Statuses that are about the client's request, not about the connection between the two servers."""
_PIECE_BYTES = 64 * 1024
_MAX_METADATA_BYTES = 256 * 1024 * 1024
"""Longer metadata are not recorded."""

_threads = CapacityLimiter(32)


@router.api_route("/proxy/dicom/{path:path}", methods=["GET", "POST"])
async def proxy(request: Request, path: str, user: SegmentingUser) -> StreamingResponse:
    """Forward a request for a resource, with or without the prefix of a service, to the DICOMweb server."""
    if request.method == "POST":
        await LABELLING(user)  # what is stored on the server can be a label
    datastore = app_instance().datastore()
    if not isinstance(datastore, DicomWebStore):
        raise HTTPException(404, "there is no DICOMweb server behind this one: its images are in a folder")
    service, _, rest = path.partition("/")
    service, resource = (service, rest) if service in _prefixes() else ("", path)
    if not _RESOURCE.fullmatch(resource):
        raise HTTPException(404, "unknown DICOMweb resource: use studies, series or instances")
    ask = partial(
        datastore.session.request,
        request.method,
        "/".join(part for part in (datastore.name(), _prefix(service, resource), resource) if part),
        params=request.url.query.replace("%2C", ","),  # Orthanc 1.10 takes OHIF's encoded list of fields for one
        headers={name: request.headers.get(name) for name in _FORWARDED_HEADERS},
        data=await request.body() or None,
        stream=True,
        allow_redirects=False,
    )
    try:
        response = await to_thread.run_sync(ask, limiter=_threads)
    except DicomWebStatusError as error:
        if error.status in _CLIENT_ERRORS:
            raise HTTPException(error.status, str(error)) from None
        raise
    headers = {name: value for name in _RETURNED_HEADERS if (value := response.headers.get(name))}
    pieces = _pieces(response)
    if _METADATA.fullmatch(resource):
        await note_viewer(request)
        encoding = response.headers.get("content-encoding", "")
        pieces = _record(pieces, partial(_record_metadata, datastore, current_viewer(), encoding=encoding))
    return StreamingResponse(pieces, status_code=response.status_code, headers=headers)


def _prefixes() -> dict[str, str | None]:
    """Return for each service the prefix of its resources in the settings."""
    return {
        "wado": settings.MONAI_LABEL_WADO_PREFIX,
        "qido": settings.MONAI_LABEL_QIDO_PREFIX,
        "stow": settings.MONAI_LABEL_STOW_PREFIX,
    }


def _prefix(service: str, resource: str) -> str | None:
    """Return the prefix for a resource: WADO's for metadata, which viewers request from QIDO."""
    return _prefixes().get("wado" if resource.endswith("metadata") and service == "qido" else service)


async def _record(pieces: AsyncIterator[bytes], record: Callable[[bytes], None]) -> AsyncIterator[bytes]:
    """Yield the pieces unchanged; records their content before the last one is sent."""
    kept, size, last = io.BytesIO(), 0, b""
    async for piece in pieces:
        size += len(piece)
        if size <= _MAX_METADATA_BYTES:
            kept.write(piece)
        if last:
            yield last
        last = piece
    if size <= _MAX_METADATA_BYTES:
        await to_thread.run_sync(record, kept.getvalue(), limiter=_threads)
    yield last


async def _pieces(response: requests.Response) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, still compressed; closes the connection if the reader stops."""
    read = partial(response.raw.read1, _PIECE_BYTES, decode_content=False)
    try:
        while piece := await to_thread.run_sync(read, limiter=_threads):
            yield piece
    finally:
        response.close()


def _record_metadata(store: DicomWebStore, viewer: Viewer, body: bytes, encoding: str) -> None:
    """Record the instances that a viewer reads from metadata of the DICOMweb server (WADO-RS, PS3.18 10.4.1.1.2).

    Args:
        store: The server's datastore.
        viewer: The client that receives the response.
        body: The whole body as it is sent, perhaps compressed; if it cannot be read it is ignored.
        encoding: The response's Content-Encoding.
    """
    instances: dict[tuple[str, str], set[str]] = defaultdict(set)
    for found in _metadata(body, encoding):
        study, series, uid = (first_value(found, tag) for tag in (STUDY, SERIES, INSTANCE))
        if study and series and uid:
            instances[str(study), str(series)].add(str(uid))
    for (study, series), uids in instances.items():
        store.folders.record_study(series, study)
        displayed_images.record_sent(viewer, series, token_of_instances(uids))


def _metadata(body: bytes, encoding: str) -> list[Any]:
    try:
        if encoding in ("gzip", "deflate"):
            body = zlib.decompressobj(wbits=47).decompress(body, _MAX_METADATA_BYTES)
        found = json.loads(body)
    except (ValueError, zlib.error, RecursionError):
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
