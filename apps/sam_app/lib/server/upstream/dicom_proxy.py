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

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from functools import partial

import requests
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import StreamingResponse
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance

from lib.dicomweb.connection import DicomWebStatusError
from lib.dicomweb.datastore import DicomWebStore
from lib.dicomweb.metadata_seen import MetadataSeen
from lib.server.auth.roles import SegmentingUser, check_may_label
from lib.studies.displayed_images import current_viewer, note_viewer

router = APIRouter(include_in_schema=False)

_RESOURCE = re.compile(r"(studies|series|instances)(/(?!\.{1,2}(/|$))[A-Za-z0-9._,~-]+)*/?")
_METADATA = re.compile(r"studies/[0-9.]+/(series/[0-9.]+/)?metadata")
_FORWARDED_HEADERS = ("accept", "accept-encoding", "content-type")
_RETURNED_HEADERS = ("content-type", "content-length", "content-encoding", "warning")
_CLIENT_ERRORS = (400, 404, 406, 409, 410, 413, 414, 415)
"""Statuses that are about the client's request, not about the connection between the two servers."""
_PIECE_BYTES = 64 * 1024

_threads = CapacityLimiter(32)


@router.api_route("/proxy/dicom/{path:path}", methods=["GET", "POST"])
async def proxy(request: Request, path: str, user: SegmentingUser) -> StreamingResponse:
    """Forward a request for a resource, with or without the prefix of a service, to the DICOMweb server."""
    if request.method == "POST":
        await check_may_label(user)  # what is stored on the server can be a label
    datastore = app_instance().datastore()
    if not isinstance(datastore, DicomWebStore):
        raise HTTPException(404, "there is no DICOMweb server behind this one: its images are in a folder")
    service, _, rest = path.partition("/")
    service, resource = (service, rest) if service in _prefixes() else ("", path)
    if not _RESOURCE.fullmatch(resource):
        raise HTTPException(404, "this is no DICOMweb resource below studies, series or instances")
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
        pieces = _record(pieces, response.headers, MetadataSeen(datastore, current_viewer()))
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


async def _record(pieces: AsyncIterator[bytes], headers: Mapping[str, str], seen: MetadataSeen) -> AsyncIterator[bytes]:
    """Yield the pieces unchanged; records their content before the last one is sent."""
    last = b""
    async for piece in pieces:
        seen.add(piece)
        if last:
            yield last
        last = piece
    await to_thread.run_sync(seen.note, headers.get("content-encoding", ""), limiter=_threads)
    yield last


async def _pieces(response: requests.Response) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, still compressed; closes the connection if the reader stops."""
    read = partial(response.raw.read1, _PIECE_BYTES, decode_content=False)
    try:
        while piece := await to_thread.run_sync(read, limiter=_threads):
            yield piece
    finally:
        response.close()
