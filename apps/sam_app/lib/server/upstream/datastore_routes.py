"""Fix: MONAI Label 0.8.5's ``/datastore`` routes write and read outside the datastore, and reveal paths of the server.

Ids, tags and file names are joined to paths unchecked, including ``../``, and a file of any type is accepted, so that a
client could store a program where it is run. With a DICOMweb server an id could name any folder of DICOM files.
``output=train`` and an image's info reveal where files are. HEAD of a label needs another parameter than GET.
"""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException
from monailabel.config import settings
from monailabel.endpoints.datastore import ResultType, download_label
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.utils.app import app_instance

from lib.base.request_record import current_record
from lib.server.upstream.arguments import (
    image_upload,
    json_object,
    known_image,
    label_tag,
    label_upload,
    named_image,
    new_image_id,
    parsed_object,
    stored_image,
    without_path,
)
from lib.server.upstream.displayed_image import check_displayed, record_sent
from lib.server.upstream.guarded_routes import Guard, held
from lib.studies.displayed_images import current_viewer


def _not_for_training(output: ResultType | None) -> ResultType | None:
    if output == ResultType.train:
        raise HTTPException(422, "output must be stats or all: this server trains no models")
    return output


def _known_checksum(checksum: str | None) -> str | None:
    """Return a checksum, ``[algorithm:]digest``, if its algorithm is known."""
    algorithm, colon, _ = (checksum or "").partition(":")
    if colon and algorithm not in ("SHA256", "SHA512", "MD5"):
        raise HTTPException(422, "check_sum names an unknown algorithm: use SHA256, SHA512 or MD5")
    return checksum


def _with_labelled_images(limit_cases: int | None) -> int | None:
    if not app_instance().datastore().get_labeled_images():
        raise HTTPException(404, "no image has a label with the tag final yet")
    return limit_cases


def _record_sent(image: str) -> str:
    """Record that the client is about to get this image as it is now; returns its id."""
    record_sent(app_instance().datastore(), known_image(image), current_viewer())
    return image


def _checked(image: str) -> str:
    """Return the image's id if it is still the one that the client displays."""
    check_displayed(app_instance().datastore(), known_image(image), current_viewer())
    return image


def _record_uploaded(response: dict[str, Any]) -> dict[str, Any]:
    """Record that the client has the image that it uploaded; returns the response unchanged."""
    record_sent(app_instance().datastore(), response["image"], current_viewer())
    return response


def _with_reviewer(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with who stores the label, if there is a login, whatever the client says."""
    params = {**parsed_object(arguments["params"]), "reviewer": None}
    record = current_record()
    if record and record.user:
        params["reviewer"] = record.user
    return {**arguments, "params": json.dumps({key: value for key, value in params.items() if value is not None})}


router = APIRouter(prefix="/datastore", tags=["Datastore"])


@router.head("/label", summary="Check if a label exists")
def check_label(
    tag: str,
    user: Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))],
    label: str = "",
    image: str = "",
) -> Any:
    """Check whether an image has a label. ``label`` is the image's id, as for GET; or ``image``, as upstream has it."""
    return download_label(known_image(label or image), label_tag(tag), check_only=True)


_ADD_IMAGE = Guard(
    {"image": new_image_id, "file": image_upload, "params": json_object}, together=named_image, clean=_record_uploaded
)
_REMOVE_IMAGE = Guard({"id": stored_image})

GUARDS = {
    "GET /datastore/": Guard({"output": _not_for_training}),
    "PUT /datastore/": _ADD_IMAGE,
    "PUT /datastore/image": _ADD_IMAGE,
    "DELETE /datastore/": _REMOVE_IMAGE,
    "DELETE /datastore/image": _REMOVE_IMAGE,
    "HEAD /datastore/image": Guard({"image": _record_sent, "check_sum": _known_checksum}),
    "GET /datastore/image": Guard({"image": _record_sent}, clean=held),
    "GET /datastore/image/info": Guard({"image": known_image}, clean=without_path),
    "PUT /datastore/image/info": Guard({"image": known_image, "info": json_object}),
    "PUT /datastore/label": Guard(
        {"image": _checked, "tag": label_tag, "label": label_upload, "params": json_object}, together=_with_reviewer
    ),
    "DELETE /datastore/label": Guard({"id": known_image, "tag": label_tag}),
    "GET /datastore/label": Guard({"label": known_image, "tag": label_tag}, clean=held),
    "GET /datastore/label/info": Guard({"label": known_image, "tag": label_tag}, clean=without_path),
    "PUT /datastore/label/info": Guard({"label": known_image, "tag": label_tag, "info": json_object}),
    "PUT /datastore/updatelabelinfo": Guard({"label": known_image, "tag": label_tag, "params": json_object}),
    "GET /datastore/dataset": Guard({"limit_cases": _with_labelled_images}),
}
