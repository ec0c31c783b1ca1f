"""Mends of MONAI Label 0.8.5's DICOMweb proxy, by which OHIF gets its images.

- It goes to any path of the DICOM server's machine, with its password: ``/proxy/dicom/%2e%2e/…`` leaves the DICOMweb
  root, and with POST as well as GET reaches what administers the DICOM server. Here a path is a resource of DICOMweb
  (PS3.18): studies, series or instances, and plain segments below.
- It drops the query, so that every search finds everything, and ``Accept``, so that frames come in another form than
  the viewer can read. Here both go on. With POST it hands on all headers, cookies and logins for this server among
  them. Here the headers are those in :data:`_FORWARDED`, and the login is this server's.
- It waits on the event loop, so that nothing else is answered meanwhile, and reads the whole answer before it sends
  the first byte. Here it waits in threads of its own and hands on what comes as it comes.
- It does not look at what it hands out. Here it notes the instances in the metadata by which a viewer reads a series,
  as its clicks name slices of that: see :mod:`lib.studies.displayed_images`.
- It stores for whoever may look at images, segmentations as well. Here storing asks for the role that labels ask for.
- A refused login is the viewer's: its user would be asked for a password of the DICOM server. Here it is a 502.
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
_FORWARDED = ("accept", "accept-encoding", "content-type")
_ANSWERED = ("content-type", "content-length", "content-encoding", "warning")
_THE_CLIENT_S_OWN = (400, 404, 406, 409, 410, 413, 414, 415)
"""Statuses that say something of the request, and not of how the two servers get on."""
_PIECE = 64 * 1024

_threads = CapacityLimiter(32)


@router.api_route("/proxy/dicom/{path:path}", methods=["GET", "POST"])
async def proxy(request: Request, path: str, user: SegmentingUser) -> StreamingResponse:
    """Hand on a request for a resource to the DICOMweb server, if asked for under the prefix of one of its services."""
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
        headers={name: request.headers.get(name) for name in _FORWARDED},
        data=await request.body() or None,
        stream=True,
        allow_redirects=False,
    )
    try:
        answer = await to_thread.run_sync(ask, limiter=_threads)
    except DicomWebStatusError as error:
        if error.status in _THE_CLIENT_S_OWN:
            raise HTTPException(error.status, str(error)) from None
        raise
    headers = {name: value for name in _ANSWERED if (value := answer.headers.get(name))}
    pieces = _pieces(answer)
    if _METADATA.fullmatch(resource):
        await note_viewer(request)
        pieces = _noted(pieces, answer.headers, MetadataSeen(datastore, current_viewer()))
    return StreamingResponse(pieces, status_code=answer.status_code, headers=headers)


def _prefixes() -> dict[str, str | None]:
    """By service, what the settings put before its resources."""
    return {
        "wado": settings.MONAI_LABEL_WADO_PREFIX,
        "qido": settings.MONAI_LABEL_QIDO_PREFIX,
        "stow": settings.MONAI_LABEL_STOW_PREFIX,
    }


def _prefix(service: str, resource: str) -> str | None:
    """Viewers ask QIDO for metadata, which is WADO's."""
    return _prefixes().get("wado" if resource.endswith("metadata") and service == "qido" else service)


async def _noted(pieces: AsyncIterator[bytes], headers: Mapping[str, str], seen: MetadataSeen) -> AsyncIterator[bytes]:
    """The same pieces; what they are together is noted before the last one goes out."""
    last = b""
    async for piece in pieces:
        seen.add(piece)
        if last:
            yield last
        last = piece
    await to_thread.run_sync(seen.note, headers.get("content-encoding", ""), limiter=_threads)
    yield last


async def _pieces(answer: requests.Response) -> AsyncIterator[bytes]:
    """The body as it comes in, compressed as it is; without a reader for it the connection is closed."""
    read = partial(answer.raw.read1, _PIECE, decode_content=False)
    try:
        while piece := await to_thread.run_sync(read, limiter=_threads):
            yield piece
    finally:
        answer.close()
