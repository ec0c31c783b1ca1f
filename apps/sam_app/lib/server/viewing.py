"""Routes to look at an image slice by slice, in any of its planes; nothing is stored by looking.

The image is one of the datastore or of a session. First its facts are asked for, which is what the audit log has; their
``version`` then goes with each slice, so that no slice is of another image than the facts.
"""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from pydantic import BaseModel, Field

from lib.imaging.image import ImageChangedError, MedicalImage, VoiTable, Window
from lib.imaging.image_cache import content_key, known_key, version_of
from lib.imaging.planes import PlaneName, ViewPlane, view_planes
from lib.server.auth.users import CurrentUser, User
from lib.server.http.errors import ErrorDetail, UnknownImageError
from lib.server.observe.image_facts import note_image_file
from lib.server.upstream.images import StoredImages
from lib.transforms.load import LoadMedicalImage
from lib.transforms.window import choose_window, is_hounsfield

_SENT_AS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
"""Types of values that a browser has arrays for; others are sent as float64."""


class Plane(BaseModel):
    """A plane of slices, as :class:`~lib.imaging.planes.ViewPlane`."""

    name: PlaneName
    axes: tuple[int, int, int] = Field(
        description="Voxel axes along a slice's columns, along its rows, from slice to slice: 0 for i, 1 for j, 2 for k"
    )
    flipped: tuple[bool, bool] = Field(description="Whether the voxel index falls along the columns, along the rows")
    size: tuple[int, int, int] = Field(description="Columns, rows, slices")
    spacing: tuple[float, float, float] = Field(description="mm along columns, rows, slices; 1 if unknown")
    letters: tuple[str, str, str, str] = Field(
        description="The patient's sides on the left, right, top and bottom: of L, R, A, P, S, I; empty if unknown"
    )


class Shown(BaseModel):
    """How the image is shown at first, and to a model unless a request says otherwise."""

    center: float | None = Field(description="Of the window, in the image's units; null: by `table`, or unchanged")
    width: float | None
    function: str = Field(description="LINEAR, LINEAR_EXACT or SIGMOID, as in DICOM")
    source: str = Field(description="Where the window comes from")
    table_first: int | None = Field(description="Value of the table's first entry")
    table: str | None = Field(description="A lookup table instead of a window: a grey level a byte, in Base64")
    inverted: bool = Field(description="Whether low values are bright")
    padding: tuple[float, float] | None = Field(description="Values from the first to the second are no image: black")


class ViewedImage(BaseModel):
    """What is needed to show an image's slices."""

    version: str = Field(description="Of the image's content; to be sent with each request for a slice")
    format: str = Field(description="The file's: DICOM, NIfTI, NRRD, PNG, ...")
    shape: tuple[int, int, int] = Field(description="Columns, rows and frames: the numbers of voxels along i, j, k")
    colour: bool = Field(description="Whether a voxel is red, green and blue, each an uint8")
    dtype: str = Field(description="Of a slice's values, little-endian, row by row: as NumPy calls it")
    unit: str = Field(description="`HU`, or empty where the source does not say")
    affine: list[list[float]] | None = Field(description="Voxel (i, j, k, 1) to mm in RAS+; null if not in a patient")
    positions: list[list[float]] | None = Field(
        description="mm in RAS+ of each frame's first voxel where frames are missing or unevenly spaced"
    )
    planes: list[Plane] = Field(description="The first is that of the frames")
    shown: Shown
    notes: list[str] = Field(description="What users should know about how the image was read")


class ListedImage(BaseModel):
    """An image of the datastore, and what is known of it without reading it; empty where nothing is."""

    id: str
    patient: str = Field(default="", description="Patient ID, or the name if there is none")
    date: str = Field(default="", description="Of the study, as YYYY-MM-DD")
    modality: str = Field(default="", description="As a DICOM code")
    description: str = Field(default="", description="Of the series, or of the study if it has none")
    labels: list[str] = Field(description="Tags of its labels")


@dataclass(frozen=True)
class Viewed:
    """An image that a user may look at.

    Args:
        user: Who looks at it.
        here: Returns its path, a file or a folder of DICOM files, as it is here now; None if it is not.
        find: Returns its path and may take long, as an archive is asked for it.
    """

    user: User
    here: Callable[[], Path | None]
    find: Callable[[], Path]


def errors(**texts: str) -> dict[int | str, dict[str, Any]]:
    """Return the errors of the routes here for OpenAPI; ``_404="…"`` is in place of what most of them say."""
    known = {
        401: "A login is needed",
        403: "The login lacks the role",
        404: "No such image, session, plane or slice",
        409: "The image has changed since its facts were asked for",
        413: "Larger than allowed",
        415: "Not an image format that is read",
        422: "A value is wrong, or the image is damaged; `detail` says which",
        429: "As many requests as allowed are being processed",
        500: "The server failed",
        502: "The DICOMweb server failed",
        503: "The memory that the image needs is in use, or reading it took too long",
    }
    told = known | {int(status[1:]): text for status, text in texts.items()}
    return {status: {"description": text, "model": ErrorDetail} for status, text in told.items()}


router = APIRouter(tags=["Viewing"], responses=errors())


def of_datastore(request: Request, user: CurrentUser, image: Annotated[str, InPath(description="Its id")]) -> Viewed:
    """Return an image of the datastore."""
    images: StoredImages = request.app.state.images
    return Viewed(user, partial(images.here_of_datastore, image), partial(images.of_datastore, image))


def of_session(
    request: Request, user: CurrentUser, session_id: Annotated[str, InPath(description="As `PUT /session/` answers it")]
) -> Viewed:
    """Return the image of a session; looking at it is a use of the session."""
    path = request.app.state.images.of_session(session_id, user)
    return Viewed(user, lambda: path, lambda: path)


Name = Annotated[PlaneName, InPath(description="One of the image's planes")]
Index = Annotated[int, InPath(ge=0, description="Voxel index across the plane, from 0")]
Version = Annotated[str, Query(max_length=64, description="As in the image's facts")]
_SLICE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {}}, "description": "The values, row by row"}
}


@router.get("/images/", summary="The images of the datastore")
def list_images(request: Request, user: CurrentUser) -> list[ListedImage]:
    """Return all images of the folder, or all series of the DICOMweb server that hold images."""
    images: StoredImages = request.app.state.images
    with request.app.state.admission.inside(user.share):
        return [ListedImage(**found) for found in images.listed()]


def _add_routes(path: str, what: str, find: Callable[..., Viewed], *, facts: str = "") -> None:
    """Add the routes by which an image is looked at.

    Args:
        path: Template of their common path.
        what: The image, for the routes' descriptions.
        find: Dependency that returns it.
        facts: End of the path of its facts.
    """

    @router.get(path + facts, summary=f"How to show {what}")
    def get_facts(request: Request, viewed: Annotated[Viewed, Depends(find)]) -> ViewedImage:
        """Return where the image's voxels are in the patient, its planes, and how its values are shown."""
        with request.app.state.admission.inside(viewed.user.share):
            return _facts(*read_viewed(viewed, request.app.state.load_image))

    @router.get(
        path + "/slices/{plane}/{index}", summary=f"A slice of {what}", response_class=Response, responses=_SLICE
    )
    def get_slice(
        request: Request, viewed: Annotated[Viewed, Depends(find)], plane: Name, index: Index, version: Version
    ) -> Response:
        """Return a slice's values in the image's own units, laid out as its plane says. Nothing is stored."""
        load: LoadMedicalImage = request.app.state.load_image
        image = in_memory(viewed, load, version)
        if image is None:
            with request.app.state.admission.inside(viewed.user.share):
                key, image = read_viewed(viewed, load)
            if version != version_of(key):
                raise ImageChangedError("the image has changed since it was opened; open it again")
        return _slice(image, plane, index)


_add_routes("/images/{image}", "an image of the datastore", of_datastore)
_add_routes("/session/{session_id}", "the image of a session", of_session, facts="/view")


def in_memory(viewed: Viewed, load: LoadMedicalImage, version: str) -> MedicalImage | None:
    """Return the image if it has this version and is in memory, for which nobody waits."""
    try:
        path = viewed.here()
        key = path and known_key(path)
    except FileNotFoundError:
        return None
    return load.images.find(key) if key and version_of(key) == version else None


def read_viewed(viewed: Viewed, load: LoadMedicalImage) -> tuple[str, MedicalImage]:
    """Return the image with the key of its content, from memory if it was read before.

    Raises:
        UnknownImageError: If it is gone.
        ImageChangedError: If it was written to meanwhile.
        ImageError, DicomWebError: If it cannot be read, or fetched.
    """
    try:
        path = viewed.find()
        key = content_key(path)
        image = load(path)
        if key != content_key(path):
            raise ImageChangedError("the image was changed while it was read; try again once it is complete")
        note_image_file(path)
    except FileNotFoundError:
        raise UnknownImageError("the image is no longer there") from None
    return key, image


def _slice(image: MedicalImage, name: PlaneName, index: int) -> Response:
    plane = next((plane for plane in view_planes(image) if plane.name == name), None)
    if plane is None:
        raise HTTPException(404, f"the image has no plane {name!r}; it has: {', '.join(_names(image))}")
    if index >= plane.size[2]:
        raise HTTPException(404, f"there is no slice {index}; the plane {name!r} has {plane.size[2]}, from 0")
    values = plane.picture(image, index).astype(_dtype(image), copy=False)
    return Response(values.tobytes(), media_type="application/octet-stream")


def _facts(key: str, image: MedicalImage) -> ViewedImage:
    positions = image.positions if image.is_geometric else None
    return ViewedImage(
        version=version_of(key),
        format=image.file_format or "",
        shape=image.ijk_shape,
        colour=image.is_colour,
        dtype=_dtype(image).name,
        unit="HU" if not image.is_colour and is_hounsfield(image) else "",
        affine=image.affine.tolist() if _has_place(image) else None,
        positions=None if positions is None else positions.tolist(),
        planes=[_described(plane) for plane in view_planes(image)],
        shown=_shown(image),
        notes=list(image.notes),
    )


def _has_place(image: MedicalImage) -> bool:
    """Return whether each voxel's place in the patient is known."""
    return image.is_geometric and (image.frame_count == 1 or not image.volume_fault)


def _shown(image: MedicalImage) -> Shown:
    """Return how all frames are shown: as the middle one is."""
    middle = image.frame_count // 2
    transform, applied = choose_window(image, middle)
    table = transform if isinstance(transform, VoiTable) else None
    return Shown(
        center=applied.center,
        width=applied.width,
        function=transform.function if isinstance(transform, Window) else "LINEAR",
        source=applied.source,
        table_first=None if table is None else table.first_mapped,
        table=None if table is None else b64encode(table.outputs).decode(),
        inverted=image.inverted,
        padding=image.display(middle).padding,
    )


def _described(plane: ViewPlane) -> Plane:
    return Plane(**vars(plane))


def _names(image: MedicalImage) -> list[str]:
    return [plane.name for plane in view_planes(image)]


def _dtype(image: MedicalImage) -> np.dtype:
    """Return the type in which values are sent."""
    name = image.frames.dtype.name
    return np.dtype(name if name in _SENT_AS else "float64").newbyteorder("<")
