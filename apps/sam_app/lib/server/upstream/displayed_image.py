"""Fix: MONAI Label 0.8.5 assumes that the image now under an id is the one that the client displays.

See :mod:`lib.studies.displayed_images`.
"""

from pathlib import Path
from typing import Any

from lib.dicomweb.datastore import DicomWebStore, InferenceImages
from lib.imaging.image_cache import image_sha256
from lib.studies.displayed_images import Viewer, displayed_images


def check_displayed(images: Any, image: str, viewer: Viewer) -> None:
    """Check that an image is still the one displayed by a client; this whole inference then works on that.

    Args:
        images: A datastore, as :func:`~lib.dicomweb.datastore.for_inference` returns it, or unwrapped.
        image: An id that it has.
        viewer: The client.

    Raises:
        ImageChangedError: If the image has changed since.
        DicomWebError: If a DICOMweb server does not return it.
    """
    if isinstance(images, InferenceImages):
        if image not in images.copies:
            images.copies[image] = images.store.copy_displayed_by(image, viewer)
    elif isinstance(images, DicomWebStore):
        images.copy_displayed_by(image, viewer)
    elif token := _token(images, image):
        displayed_images.check_displayed(viewer, image, token)


def record_sent(datastore: Any, image: str, viewer: Viewer) -> None:
    """Record that a client is about to get the image as it is now.

    Raises:
        DicomWebError: If a DICOMweb server does not return it.
    """
    is_series = isinstance(datastore, DicomWebStore)
    token = datastore.folders.get(image, anew=True).version if is_series else _token(datastore, image)
    if token:
        displayed_images.record_sent(viewer, image, token)


def _token(datastore: Any, image: str) -> str | None:
    """Return a token for the content of an image that is a file here; None for any other."""
    try:
        return image_sha256(Path(datastore.get_image_uri(image)))
    except OSError:
        return None
