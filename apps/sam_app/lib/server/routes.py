"""The four REST routes."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, HTTPException, Path, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse, JSONResponse
from fastapi.routing import APIRoute
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from pydantic import Json
from starlette.types import Message

from lib.server.errors import UploadTooLargeError
from lib.server.health import HealthReport
from lib.server.results import parse_timestamp
from lib.server.schemas import Accepted, ErrorDetail, Health, SAMInput
from lib.server.segmentation_service import SegmentationService

CurrentUser = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]


def _service(request: Request) -> SegmentationService:
    service: SegmentationService = request.app.state.segmentation_service
    return service


def _health(request: Request) -> HealthReport:
    report: HealthReport = request.app.state.health_report
    return report


Service = Annotated[SegmentationService, Depends(_service)]
Timestamp = Annotated[
    str,
    Path(description="As answered by `POST /segment_input_image/`", examples=["1732288000.12"]),
]


class BoundedBodyRoute(APIRoute):
    """A route whose request body is cut off at ``app.state.max_upload_bytes``, before it is parsed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The usual handler, on a request that refuses to grow further."""
        handle = super().get_route_handler()

        async def handle_bounded(request: Request) -> Response:
            limit: int = request.app.state.max_upload_bytes
            too_large = UploadTooLargeError(f"the request is larger than the {limit / 2**20:.3g} MiB that are allowed")
            declared = request.headers.get("content-length", "")
            if declared.isdigit() and int(declared) > limit:
                raise too_large
            received = 0

            async def receive() -> Message:
                nonlocal received
                message = await request.receive()
                received += len(message.get("body", b""))
                if received > limit:
                    raise HTTPException(413, str(too_large))  # the only kind that body parsing lets through
                return message

            return await handle(Request(request.scope, receive))

        return handle_bounded


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    texts = {
        400: "The body is no multipart form",
        404: "No such result or model",
        413: "Larger than allowed, in bytes or pixels",
        415: "Not an image format that is read; `detail` names what was found",
        422: "A value is wrong; `detail` says which and what would be right",
        429: "As many requests as allowed are being worked on",
        503: "The model cannot be used now",
        507: "The results' disk is full",
    }
    return {status: {"description": texts[status], "model": ErrorDetail} for status in statuses}


router = APIRouter(tags=["Segmentation"], route_class=BoundedBodyRoute)


@router.post(
    "/segment_input_image/",
    summary="Segment an image",
    response_model=Accepted,
    responses=_errors(400, 404, 413, 415, 422, 429, 503, 507),
)
def segment_input_image(
    user: CurrentUser,
    service: Service,
    response: Response,
    file: Annotated[UploadFile, File(description="PNG, JPEG, TIFF, BMP, DICOM, NIfTI or NRRD")],
    sam_input: Annotated[Json[SAMInput] | None, Form(description="`SAMInput` as JSON text")] = None,
) -> Accepted:
    """Segment what the prompts of `sam_input` mark on the image `file`.

    Answers the timestamp that names the result in the other routes. The header `SAM-Result` says in JSON which
    model, frame and window were used, and each object's predicted IoU and area in pixels.
    """
    segmented = service.segment(file.file, sam_input or SAMInput(), user.username)
    response.headers["SAM-Result"] = json.dumps(segmented.facts)
    return Accepted(timestamp=float(segmented.timestamp))


class View(str, Enum):
    """What `GET /get_segmented_image/` shows."""

    overlay = "overlay"
    contour = "contour"
    mask = "mask"
    image = "image"


_DICOM_TYPES = (
    "`sc`: the overlay as Secondary Capture; `seg`: Segmentation; `source`: the upload as Secondary Capture, which the "
    "other two reference, if it was not DICOM itself"
)


class DicomType(str, Enum):
    """What `GET /get_dicom_image/` answers."""

    sc = "sc"
    seg = "seg"
    source = "source"


@router.get(
    "/get_segmented_image/{timestamp}",
    summary="The segmented image as PNG",
    response_class=FileResponse,
    responses={200: {"content": {"image/png": {}}, "description": "PNG"}, **_errors(404, 422)},
)
def get_segmented_image(
    user: CurrentUser,
    service: Service,
    timestamp: Timestamp,
    view: Annotated[View, Query(description="`mask`: 8-bit, 0 background, then object numbers")] = View.overlay,
) -> FileResponse:
    """The image with its objects overlaid, or another view of them, at the image's own size."""
    return _file(service, timestamp, f"{view.value}.png", "image/png")


_DICOM_FILES = {
    DicomType.sc: "secondary_capture.dcm",
    DicomType.seg: "segmentation.dcm",
    DicomType.source: "source.dcm",
}


@router.get(
    "/get_dicom_image/{timestamp}",
    summary="The segmented image as DICOM",
    response_class=FileResponse,
    responses={200: {"content": {"application/dicom": {}}, "description": "DICOM"}, **_errors(404, 422)},
)
def get_dicom_image(
    user: CurrentUser,
    service: Service,
    timestamp: Timestamp,
    type: Annotated[DicomType, Query(description=_DICOM_TYPES)] = DicomType.sc,
) -> FileResponse:
    """The overlay as Secondary Capture, in the source's study if it was DICOM; or a DICOM Segmentation of it."""
    return _file(service, timestamp, _DICOM_FILES[type], "application/dicom")


def _file(service: SegmentationService, timestamp: str, name: str, media_type: str) -> FileResponse:
    try:
        parsed = parse_timestamp(timestamp)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    path = service.store.file(parsed, name)
    download = f"{parsed.normalize():f}-{name}"
    return FileResponse(path, media_type=media_type, filename=download, content_disposition_type="inline")


@router.get(
    "/health_check/",
    summary="The server's state",
    response_model=Health,
    responses={503: {"description": "Not ready", "model": Health}},
)
async def health_check(report: Annotated[HealthReport, Depends(_health)]) -> JSONResponse:
    """Whether the server can segment, with which models, on what. Needs no login; answered on the event loop."""
    health = report.now()
    return JSONResponse(health.model_dump(), status_code=200 if health.status == "ok" else 503)
