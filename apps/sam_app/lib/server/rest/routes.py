"""The four REST routes of segmentation."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, File, Form, Header, HTTPException, Query, Request, Response, UploadFile
from fastapi import Path as InPath
from fastapi.responses import JSONResponse
from pydantic import Json

from lib.base.request_record import note
from lib.server.auth.users import CurrentUser, User
from lib.server.http.body_check import DocumentedAsObject, PartText, form_of
from lib.server.http.errors import ErrorDetail, Failure, RefineError, UnknownResultError, failure_response
from lib.server.http.forms import not_empty
from lib.server.rest.health import HealthReport
from lib.server.rest.outputs import MASK, candidate_file
from lib.server.rest.renderings import CONTOUR, IMAGE, OVERLAY, SECONDARY_CAPTURE, SEGMENTATION, SOURCE, object_file
from lib.server.rest.results import StoredResult
from lib.server.rest.schemas import Accepted, Health, NotFinished, SAMInput
from lib.server.rest.segmentation_service import SegmentationService, SentRequest
from lib.server.rest.stored_file import file_response, queued_response
from lib.server.rest.timestamps import parse_timestamp, print_timestamp


class ServerImages(Protocol):
    """The images that the server has, besides those of results: ``app.state.images``."""

    def of_datastore(self, image: str) -> Path:
        """Return the path of an image of the datastore, a file or the folder of a series; may ask a slow archive.

        Raises:
            UnknownImageError: If there is none.
            DicomWebError: If a DICOMweb server does not send it.
        """

    def of_session(self, session_id: str, user: User) -> Path:
        """Return the path of the image of a session that the user may use, likewise, and count this as a use.

        Raises:
            HTTPException: 404 if there is none.
        """


async def _service(request: Request) -> SegmentationService:
    return request.app.state.segmentation_service


async def _health(request: Request) -> HealthReport:
    return request.app.state.health_report


Service = Annotated[SegmentationService, Depends(_service)]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    texts = {
        400: "The body is not a multipart form, or incomplete",
        401: "A login is needed",
        403: "The login lacks the role",
        404: "No such result, image, session or model",
        408: "The body did not arrive in time",
        409: "The result to refine is not finished yet, or the image is another by now",
        413: "Larger than allowed, in bytes, pixels or frames",
        415: "Not an image format that is read, or not a form; `detail` names what was found",
        422: "A value is wrong; `detail` says which and what would be right",
        429: "As many requests as allowed are being processed",
        500: "The server failed",
        502: "The DICOMweb server failed",
        503: "The model cannot be used now, or the work took too long",
        507: "The results' disk is full",
    }
    return {status: {"description": texts[status], "model": ErrorDetail} for status in statuses}


router = APIRouter(tags=["Segmentation"], responses=_errors(401, 403, 500))


@router.post(
    "/segment_input_image/",
    summary="Segment an image",
    response_model=Accepted,
    dependencies=[Depends(form_of("file", "mask", "protect", "sam_input"))],
    responses={
        200: {
            "description": "Its timestamp; with `Prefer: return=representation` the mask, as by `view=mask`",
            "content": {"image/png": {}},
        },
        202: {"description": "Accepted, to be processed later", "model": Accepted},
        **_errors(400, 404, 408, 409, 413, 415, 422, 429, 502, 503, 507),
    },
)
def segment_input_image(
    request: Request,
    user: CurrentUser,
    service: Service,
    response: Response,
    file: Annotated[UploadFile | None, File(description="PNG, JPEG, TIFF, BMP, DICOM, NIfTI or NRRD")] = None,
    mask: Annotated[
        UploadFile | None,
        File(description="The object to start from: PNG of the frame's size, or labels on the image's voxels"),
    ] = None,
    protect: Annotated[
        UploadFile | None, File(description="Objects that no mask covers: labels of any values, likewise")
    ] = None,
    sam_input: Annotated[
        Json[SAMInput] | None, PartText, DocumentedAsObject, Form(description="`SAMInput` as JSON text")
    ] = None,
    prefer: Annotated[
        str | None,
        Header(
            description="`respond-async`: return at once and process later; `return=representation`: return the mask",
            examples=["return=representation"],
        ),
    ] = None,
) -> Any:
    """Segment what the prompts of `sam_input` mark on the image `file`.

    Returns the timestamp that names the result in the other routes. The header `SAM-Result` contains as JSON which
    model, frame and window were used, and each object's predicted IoU and area in pixels.

    With `Prefer: respond-async` (RFC 7240) the request is checked and stored, and 202 is returned at once. The GET
    routes then return 202 with `Retry-After` until the result is finished, and its error if it failed.

    With `Prefer: return=representation` the mask as PNG is returned instead of the timestamp, which is then in the
    header `Content-Location`, the mask's URL relative to this one.

    `file` is omitted when `sam_input` names an `image` of the datastore, a `session`, or a result to `refine` or to
    `start` from.
    """
    asked = sam_input or SAMInput()
    upload = None if file is None else not_empty(file).file
    start_mask, protected = (None if part is None else not_empty(part).file for part in (mask, protect))
    if asked.refine is not None and asked.start is not None:
        raise RefineError("name a result to refine or one to start from, not both")
    named = asked.refine if asked.start is None else asked.start
    earlier = None if named is None else _find(service, named, user)
    stored = _stored_image(request, asked, user, is_named_otherwise=upload is not None or named is not None)
    sent = SentRequest(upload, asked, user, earlier, start_mask, protected, stored)
    preferences = _preferences(prefer)
    if _ASYNC in preferences:
        timestamp = service.accept(sent)
        response.status_code = 202
        response.headers["Preference-Applied"] = _ASYNC
        response.headers["Location"] = f"../get_segmented_image/{print_timestamp(timestamp)}"
        response.headers["Retry-After"] = str(service.retry_after(timestamp))
        return Accepted(timestamp=float(timestamp))
    segmented = service.segment(sent)
    facts = {"SAM-Result": json.dumps(segmented.facts)}
    if _MASK not in preferences:
        response.headers.update(facts)
        return Accepted(timestamp=float(segmented.timestamp))
    place = {"Content-Location": f"../get_segmented_image/{print_timestamp(segmented.timestamp)}?view=mask"}
    return Response(
        service.store.find(segmented.timestamp).path(MASK).read_bytes(),
        media_type="image/png",
        headers={**facts, **place, "Preference-Applied": _MASK},
    )


def _stored_image(
    request: Request, asked: SAMInput, user: User, *, is_named_otherwise: bool
) -> Callable[[], Path] | None:
    """Return what finds the image of the datastore or the session that is asked for; None if none is.

    Raises:
        HTTPException: 422 if the image is named more than once.
    """
    images: ServerImages = request.app.state.images
    found: list[Callable[[], Path]] = []
    if asked.image is not None:
        found.append(partial(images.of_datastore, asked.image))
    if asked.session is not None:
        found.append(partial(images.of_session, asked.session, user))
    if len(found) + is_named_otherwise > 1:
        raise HTTPException(
            422, "there is more than one image: send a file, or name an image, a session or an earlier result"
        )
    if asked.version is not None and not found:
        raise HTTPException(422, "version is for an image of the datastore or a session: name one, or leave it out")
    return found[0] if found else None


_ASYNC, _MASK = "respond-async", "return=representation"
"""What clients can prefer (RFC 7240)."""


def _preferences(prefer: str | None) -> set[str]:
    """Return what the header prefers, in lower case, without parameters and quotation marks."""
    parts = (part.split(";")[0].replace('"', "") for part in (prefer or "").lower().split(","))
    return {"=".join(map(str.strip, part.split("="))) for part in parts}


class View(StrEnum):
    """What `GET /get_segmented_image/` shows."""

    overlay = "overlay"
    contour = "contour"
    mask = "mask"
    image = "image"


class DicomType(StrEnum):
    """What `GET /get_dicom_image/` returns."""

    sc = "sc"
    seg = "seg"
    source = "source"


_DICOM_TYPES = (
    "`sc`: the overlay as Secondary Capture; `seg`: Segmentation; `source`: the upload as Secondary Capture, which the "
    "other two reference, if it was not DICOM itself"
)
_VIEWS = "`mask`: 8-bit, 0 background, then object numbers; where objects overlap that of the smaller one"
_VIEW_FILES = {View.overlay: OVERLAY, View.contour: CONTOUR, View.mask: MASK}
_DICOM_FILES = {DicomType.sc: SECONDARY_CAPTURE, DicomType.seg: SEGMENTATION}


@dataclass(frozen=True)
class ResultFile:
    """What a request for a file of a result consists of, as a dependency of its route."""

    request: Request
    user: CurrentUser
    service: Service
    timestamp: Annotated[
        str,
        InPath(
            description="As returned by `POST /segment_input_image/`",
            examples=["1732288000.12"],
            json_schema_extra={"type": "number"},
        ),
    ]
    candidate: Annotated[
        int, Query(ge=0, le=2, description="Which of the candidate masks, best first, when there are three")
    ] = 0

    def response(self, name: str, media_type: str) -> Response:
        """Return the response with that file of the result, or why there is none."""
        try:
            parsed = parse_timestamp(self.timestamp)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        note(timestamp=f"{parsed:.6f}")
        result = _find(self.service, parsed, self.user)
        if result.state == "queued":
            if self.service.lacks_space(parsed):
                return failure_response(Failure(507, "there was no space left for the result; it is tried again later"))
            return queued_response(result, self.service.retry_after(parsed))
        if result.state == "failed":
            return failure_response(Failure(**(result.manifest.failure or {})))
        count = result.facts.candidates
        if self.candidate >= count:
            raise UnknownResultError(f"there is no candidate {self.candidate}; this result has {count}, from 0")
        note(image_sha256=result.manifest.input.sha256)
        inline = media_type.startswith("image/")
        return file_response(self.request, self.service.renderings, result, name, media_type, inline=inline)


_GET_ERRORS = _errors(404, 413, 415, 422, 503, 507)
_ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"description": "Not finished yet; ask again after `Retry-After` seconds", "model": NotFinished},
    304: {"description": "The client's copy is current"},
}


@router.head("/get_segmented_image/{timestamp}", include_in_schema=False)
@router.get(
    "/get_segmented_image/{timestamp}",
    summary="The segmented image as PNG",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "PNG"}, **_ACCEPTED, **_GET_ERRORS},
)
def get_segmented_image(
    asked: Annotated[ResultFile, Depends()],
    view: Annotated[
        View, Query(description="`mask`: 8-bit, 0 background, then object numbers, the smaller object on top")
    ] = View.overlay,
    object: Annotated[
        int | None, Query(ge=1, le=255, description="With `mask`: this object alone, whole, also below others")
    ] = None,
) -> Response:
    """Return the image with its objects overlaid, or another view of them, at the image's own size."""
    name = IMAGE if view is View.image else candidate_file(_VIEW_FILES[view], asked.candidate)
    if object is not None:
        if view is not View.mask:
            raise HTTPException(422, "object is for view=mask: the other views show all objects")
        name = object_file(object, asked.candidate)
    return asked.response(name, "image/png")


@router.head("/get_dicom_image/{timestamp}", include_in_schema=False)
@router.get(
    "/get_dicom_image/{timestamp}",
    summary="The segmented image as DICOM",
    response_class=Response,
    responses={200: {"content": {"application/dicom": {}}, "description": "DICOM"}, **_ACCEPTED, **_GET_ERRORS},
)
def get_dicom_image(
    asked: Annotated[ResultFile, Depends()],
    type: Annotated[DicomType, Query(description=_DICOM_TYPES)] = DicomType.sc,
) -> Response:
    """Return the overlay as Secondary Capture, in the source's study if it was DICOM; or a DICOM Segmentation."""
    name = SOURCE if type is DicomType.source else candidate_file(_DICOM_FILES[type], asked.candidate)
    return asked.response(name, "application/dicom")


def _find(service: SegmentationService, timestamp: Decimal, user: User) -> StoredResult:
    """Return the result if the user may see it; another user's counts as unknown."""
    result = service.store.find(timestamp)
    if not user.may_see(result.manifest.user):
        raise UnknownResultError(f"there is no result {print_timestamp(timestamp)}")
    return result


@router.get(
    "/health_check/",
    summary="The server's state",
    response_model=Health,
    responses={503: {"description": "Not ready", "model": Health}},
)
async def health_check(report: Annotated[HealthReport, Depends(_health)]) -> JSONResponse:
    """Return whether the server can segment, with which models and device. Needs no login; runs on the event loop."""
    health = report.now()
    return JSONResponse(health.model_dump(), status_code=200 if health.status in ("ok", "degraded") else 503)
