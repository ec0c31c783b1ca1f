"""Mend: MONAI Label 0.8.5 takes whatever an id names at the moment for the image that its client sees.

See :mod:`lib.studies.displayed_images`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib.dicomweb.datastore import DicomWebStore, InferenceImages
from lib.imaging.digest import image_sha256
from lib.studies.displayed_images import Viewer, displayed_images


def check_displayed(images: Any, image: str, viewer: Viewer) -> None:
    """Let a client go on whose image is still the one that it saw; all of this inference works on that.

    Args:
        images: A datastore, as :func:`~lib.dicomweb.datastore.for_inference` gives it or by itself.
        image: An id that it has.
        viewer: The client.

    Raises:
        ImageChangedError: If the image has changed since.
        DicomWebError: If a DICOMweb server does not hand it out.
    """
    if isinstance(images, InferenceImages):
        if not images.has_copy(image):
            images.use_copy(image, images.store.copy_displayed_by(image, viewer))
    elif isinstance(images, DicomWebStore):
        images.copy_displayed_by(image, viewer)
    elif token := _token(images, image):
        displayed_images.check_displayed(viewer, image, token)


def record_sent(datastore: Any, image: str, viewer: Viewer) -> None:
    """A client is about to get the image as it is now.

    Args:
        datastore: Has it.
        image: Its id.
        viewer: The client.

    Raises:
        DicomWebError: If a DICOMweb server does not hand it out.
    """
    is_series = isinstance(datastore, DicomWebStore)
    token = datastore.folders.get(image, anew=True).version if is_series else _token(datastore, image)
    if token:
        displayed_images.record_sent(viewer, image, token)


def _token(datastore: Any, image: str) -> str | None:
    """Names the content of an image that is a file here; None for any other."""
    try:
        return image_sha256(Path(datastore.get_image_uri(image)))
    except OSError:
        return None
