"""``GET /images/{image}/thumbnail``: a small picture of an image, by which a person finds it in a list.

It is made without keeping the image in memory. Those of series that are not here yet are what the DICOMweb server
renders; they are not fetched for it.
"""

import io
import threading
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
from cachetools import LRUCache
from fastapi import APIRouter, Request, Response
from fastapi import Path as InPath
from PIL import Image, UnidentifiedImageError

from lib.imaging.image import ImageError, MedicalImage
from lib.imaging.image_cache import identity_of, known_key
from lib.imaging.planes import view_planes
from lib.server.auth.users import CurrentUser
from lib.server.rest.manifest import stored_size
from lib.server.upstream.images import StoredImages
from lib.server.viewing import errors
from lib.transforms.load import LoadMedicalImage
from lib.transforms.window import choose_window, windowed_frame

SIDE = 96
"""Pixels of the longer side."""

MAX_BYTES = 64 * 2**20
"""Of an image's files: larger ones take too long to read for a glance, and get a picture once they are in memory."""

_KEPT = 4096

router = APIRouter(tags=["Viewing"], responses=errors())


class Thumbnails:
    """Small pictures of images as PNG files; the last thousands are kept. Thread-safe.

    Args:
        load: Reads images, and has those that were read last.
    """

    def __init__(self, load: LoadMedicalImage) -> None:
        self._load = load
        self._load_uncached = LoadMedicalImage(load.limits)
        self._kept: LRUCache[object, bytes] = LRUCache(_KEPT)
        self._lock = threading.Lock()

    def of(self, images: StoredImages, image: str) -> bytes | None:
        """Return that of an image of the datastore; None if there is none.

        Raises:
            UnknownImageError: If a folder has no such image.
            DicomWebError: If a DICOMweb server does not respond.
        """
        path = images.here_of_datastore(image)
        try:
            key = image if path is None else identity_of(path)
        except FileNotFoundError:
            return None
        with self._lock:
            if key in self._kept:
                return self._kept[key]
        made = _of_archive(images, image) if path is None else self._of_file(path)
        if made is not None:
            with self._lock:
                self._kept[key] = made
        return made

    def _of_file(self, path: Path) -> bytes | None:
        known = known_key(path)
        image = self._load.images.find(known) if known else None
        try:
            if image is None and stored_size(path) > MAX_BYTES:
                return None
            return _png(image or self._load_uncached(path))
        except ImageError:  # who opens it is told why
            return None


def _of_archive(images: StoredImages, image: str) -> bytes | None:
    content = images.rendered_by_archive(image)
    if content is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG")).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError):
        return None
    return _written(picture, picture.size)


def _png(image: MedicalImage) -> bytes:
    """Return the image's middle frame, as a person looks at it."""
    middle = image.frame_count // 2
    plane = view_planes(image)[0]
    shown = plane.laid_out(windowed_frame(image, middle, choose_window(image, middle)[0]))
    rows, columns = shown.shape[:2]
    return _written(Image.fromarray(np.ascontiguousarray(shown)), (columns * plane.spacing[0], rows * plane.spacing[1]))


def _written(picture: Image.Image, size: tuple[float, float]) -> bytes:
    """Return a picture of this width and height, in any unit, as a small PNG file."""
    scale = SIDE / max(size)
    width, height = (max(1, round(length * scale)) for length in size)
    file = io.BytesIO()
    picture.resize((width, height), Image.Resampling.BOX).save(file, "PNG")
    return file.getvalue()


@router.get(
    "/images/{image}/thumbnail",
    summary="A small picture of an image of the datastore",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}}, "description": f"PNG, its longer side {SIDE} pixels"},
        204: {"description": "There is none, as the image is too large, cannot be read, or is not rendered"},
    },
)
def get_thumbnail(request: Request, user: CurrentUser, image: Annotated[str, InPath(description="Its id")]) -> Response:
    """Return the image's middle frame, in true proportions."""
    thumbnails: Thumbnails = request.app.state.thumbnails
    with request.app.state.admission.inside(user.share):
        made = thumbnails.of(request.app.state.images, image)
    if made is None:
        return Response(status_code=204)
    return Response(made, media_type="image/png")
