"""Routes that make another format of a client's labels of an image: DICOM SEG, RT Structure Set, STL.

Nothing is stored. The image is one of the datastore, or of a session; DICOM objects belong to its patient and study.
"""

import io
import re
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, File, Form, HTTPException, Query, Request, Response, UploadFile
from fastapi import Path as InPath

from lib.dicomweb.dicom_seg import segment_names, segmentation_of_labels, structures_of_labels
from lib.imaging.dicom.data_sets import to_bytes
from lib.imaging.dicom.reader import read_series_grid
from lib.imaging.image import ImageError, MedicalImage, UnsupportedImageError
from lib.imaging.labels.label_grid import labels_of_file
from lib.imaging.labels.surface import surface_stl
from lib.server.auth.users import CurrentUser
from lib.server.http.body_check import FormText, form_of
from lib.server.upstream.arguments import label_upload, on_disk, parsed_object
from lib.server.viewing import errors
from lib.transforms.load import LoadMedicalImage


class ExportType(StrEnum):
    """What labels are made into."""

    seg = "seg"
    rtstruct = "rtstruct"
    stl = "stl"


_MEDIA_TYPES = {ExportType.stl: "application/zip"}
_TYPES = (
    "`seg`: DICOM Segmentation; `rtstruct`: DICOM RT Structure Set; `stl`: a ZIP with a surface in mm of each object"
)

router = APIRouter(
    tags=["Export"],
    responses=errors(
        _404="No such image or session",
        _422="The labels do not lie on the image, or the type needs another kind of image; `detail` says which",
    ),
)


def _of_datastore(request: Request, image: Annotated[str, InPath(description="Its id")]) -> Callable[[], Path]:
    return partial(request.app.state.images.of_datastore, image)


def _of_session(
    request: Request,
    user: CurrentUser,
    session_id: Annotated[str, InPath(description="As returned by `PUT /session/`")],
) -> Callable[[], Path]:
    return partial(request.app.state.images.of_session, session_id, user)


def _add_route(path: str, of: Callable[..., Callable[[], Path]], what: str) -> None:
    @router.post(
        path,
        summary=f"Labels of {what} in another format",
        response_class=Response,
        responses={200: {"content": {"application/dicom": {}, "application/zip": {}}, "description": "The file"}},
        dependencies=[Depends(form_of("label", "params"))],
    )
    def export(
        request: Request,
        user: CurrentUser,
        find: Annotated[Callable[[], Path], Depends(of)],
        type: Annotated[ExportType, Query(description=_TYPES)],
        label: Annotated[UploadFile, File(description="Labels on the image's voxels, in any format that is read")],
        params: Annotated[
            FormText, Form(description='`{"label_info": [{"name": "liver", "idx": 1}]}`: names of the numbers')
        ] = "{}",
    ) -> Response:
        """Return the labels as DICOM Segmentation, RT Structure Set or surfaces; nothing is stored."""
        info = parsed_object(params).get("label_info")
        file = Path(on_disk(label_upload(label)))
        with request.app.state.admission.inside(user.share):
            content = _made(type, find(), file, info, request.app.state.load_image)
        return Response(content, media_type=_MEDIA_TYPES.get(type, "application/dicom"))


_add_route("/images/{image}/export", _of_datastore, "an image of the datastore")
_add_route("/session/{session_id}/export", _of_session, "the image of a session")


def _made(type: ExportType, image: Path, label: Path, info: Any, load: LoadMedicalImage) -> bytes:
    if type is ExportType.stl:
        return _surfaces(load(image), label, info, load)
    try:
        grid = read_series_grid(image)
    except ImageError as error:
        raise HTTPException(422, f"type={type} needs a DICOM image: a series, or one DICOM file") from error
    made = (
        segmentation_of_labels(grid, label, info) if type is ExportType.seg else structures_of_labels(grid, label, info)
    )
    return to_bytes(made)


def _surfaces(image: MedicalImage, label: Path, info: Any, load: LoadMedicalImage) -> bytes:
    """Return a ZIP with a surface for each object, named as the object."""
    if not image.is_geometric or image.volume_fault or image.positions is not None or image.frame_count < 2:
        raise UnsupportedImageError("type=stl needs a volume with evenly spaced slices whose place is known")
    labels = labels_of_file(label, image, load)
    values = [int(value) for value in np.unique(labels) if value]
    if not values:
        raise UnsupportedImageError("the label is empty: it has no surface")
    content = io.BytesIO()
    now = datetime.now(UTC).timetuple()[:6]
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for value, name in zip(values, segment_names(info, values), strict=True):
            plain = re.sub(r"[^\w .-]", "_", name).strip(" .") or "object"
            surface = surface_stl(labels == value, image.affine)
            archive.writestr(zipfile.ZipInfo(f"{value} {plain}.stl", now), surface, zipfile.ZIP_DEFLATED)
    return content.getvalue()
