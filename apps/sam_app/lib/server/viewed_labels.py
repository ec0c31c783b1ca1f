"""Route to look at the stored label of an image: on the image's own voxels, in whatever format it was stored."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from monailabel.interfaces.utils.app import app_instance

from lib.imaging.decoding.memory_budget import budget
from lib.imaging.dicom.header_values import value_of
from lib.imaging.dicom.reader import read_dicom_headers
from lib.imaging.image import ImageChangedError, MedicalImage, UnsupportedImageError
from lib.imaging.image_cache import version_of
from lib.imaging.labels.label_grid import labels_of_file
from lib.imaging.labels.label_writers import write_label_volume
from lib.imaging.labels.series_segmentation import OverlappingSegmentsError
from lib.server.auth.users import CurrentUser
from lib.server.upstream.arguments import label_tag
from lib.server.viewing import errors, of_datastore, read_viewed
from lib.trainers.accepted_labels import label_set
from lib.transforms.load import LoadMedicalImage

_MAX_NUMBER = 65535
_MAX_LISTED, _MAX_NAME_LENGTH = 500, 100
"""Labels in the header, and characters of a name: clients limit the size of headers."""
_COPIES = 4
"""Of the labels as bytes: as read, as numbers, as written, and compressed."""

router = APIRouter(tags=["Viewing"], responses=errors(_404="No such image, or it has no label with this tag"))


@router.get(
    "/images/{image}/labels/{tag}",
    summary="The label of an image of the datastore, on its voxels",
    response_class=Response,
    responses={200: {"content": {"application/gzip": {}}, "description": "NIfTI, compressed with gzip"}},
)
def get_image_label(
    request: Request,
    user: CurrentUser,
    image: Annotated[str, InPath(description="Its id")],
    tag: Annotated[str, InPath(description="`final`, or that under which the label was stored", examples=["final"])],
    version: Annotated[
        str | None, Query(max_length=64, description="As in the image's facts: refused if it is another by now")
    ] = None,
) -> Response:
    """Return a stored label as NIfTI of uint8 (uint16 if it has numbers above 255), 0 where nothing is labelled.

    Its array's axes i, j, k are the image's columns, rows and frames, as for the slices. The header `SAM-Labels` is a
    JSON list of `idx`, the number, and `name`; `SAM-Notes` is one of what should be known, if there is anything.
    """
    load: LoadMedicalImage = request.app.state.load_image
    with request.app.state.admission.inside(user.share):
        key, seen = read_viewed(of_datastore(request, user, image), load)
        if version not in (None, version_of(key)):
            raise ImageChangedError("the image has changed since it was opened; open it again")
        datastore = app_instance().datastore()
        file = datastore.get_label_uri(image, label_tag(tag))
        if not file:
            raise HTTPException(404, f"the image has no label with the tag {tag!r}")
        reserved = budget.reserve(_COPIES * seen.frames.shape[0] * seen.frame_size[0] * seen.frame_size[1])
        labels, notes = _on_image(Path(file), seen, LoadMedicalImage(load.limits))
        names = label_set(datastore.get_label_info(image, label_tag(tag))) or _segment_names(Path(file))
        present = _present(labels)
        content = _nifti(labels, seen.affine, "uint8" if max(present, default=0) < 256 else "uint16")
        reserved.release()
    listed = sorted(present | names.keys())
    if len(listed) > _MAX_LISTED:
        notes.append(f"only the first {_MAX_LISTED} of {len(listed)} labels are listed")
    known = [{"idx": n, "name": names.get(n, f"Label {n}")[:_MAX_NAME_LENGTH]} for n in listed[:_MAX_LISTED]]
    headers = {
        "SAM-Labels": json.dumps(known),
        "Content-Disposition": 'attachment; filename="label.nii.gz"',
        "Cache-Control": "private, no-store",
    }
    if notes:
        headers["SAM-Notes"] = json.dumps(notes)
    return Response(content, media_type="application/gzip", headers=headers)


def _on_image(file: Path, image: MedicalImage, read: LoadMedicalImage) -> tuple[np.ndarray, list[str]]:
    """Return the labels of a file on the voxels of an image, ``(K, rows, columns)`` whole numbers, and notes.

    Raises:
        UnsupportedImageError: If it has no label numbers.
        ImageError: If it cannot be read, or does not lie on the image.
    """
    if file.suffix == ".json":
        raise UnsupportedImageError("this label consists of regions of interest, not of voxels")
    notes = []
    try:
        labels = labels_of_file(file, image, read)
    except OverlappingSegmentsError:
        labels = labels_of_file(file, image, read, highest=True)
        notes.append("segments overlap: where they do, the one with the highest number is shown")
    is_whole = labels.dtype.kind in "ui" or all(np.array_equal(one, np.rint(one)) for one in labels)
    if not is_whole or labels.min() < 0 or labels.max() > _MAX_NUMBER:
        raise UnsupportedImageError(f"a label is of whole numbers from 0 to {_MAX_NUMBER}; this one has others")
    return labels, notes


def _present(labels: np.ndarray) -> set[int]:
    """Return the numbers that labels have, without 0."""
    found = np.zeros(_MAX_NUMBER + 1, bool)
    for one in labels:
        found[one.astype(np.uint16).reshape(-1)] = True
    return {int(number) for number in np.flatnonzero(found) if number}


def _segment_names(file: Path) -> Mapping[int, str]:
    """Return the names of the segments of a DICOM Segmentation; none of another file."""
    if file.suffix != ".dcm":
        return {}
    [header] = read_dicom_headers(file)
    return {int(one.SegmentNumber): str(one.SegmentLabel) for one in value_of(header, "SegmentSequence") or ()}


def _nifti(labels: np.ndarray, affine: Any, dtype: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "label.nii.gz")
        write_label_volume(labels, affine, path, dtype=dtype)
        return path.read_bytes()
