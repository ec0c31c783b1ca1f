"""Mend: MONAI Label 0.8.5 runs inference on the event loop and lets a client name any file of the server.

Its ``POST /infer/{model}`` is ``async def`` around blocking work, so that nothing else is answered meanwhile; and
``image`` in the query or in ``params`` is opened as a path if there is such a file. This route stands in front of
it, runs in a worker thread, takes images of the datastore, sessions and uploads only, and then calls the same
``run_inference``.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, File, Form, HTTPException, UploadFile
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.endpoints.infer import ResultType, run_inference
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.utils.app import app_instance
from pydicom.uid import UID

from lib.sam.registry import UnknownModelError
from lib.server.errors import UnknownImageError

router = APIRouter(tags=["Infer"])

_SERVER_KEYS = ("image", "image_path", "model", "label", "session", "sam_input", "skip_writer")
"""Keys that the server sets itself; in a client's ``params`` they are left out."""


@router.post("/infer/{model}", summary="Run inference for a model")
def infer(
    background_tasks: BackgroundTasks,
    model: str,
    user: Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))],
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
    output: ResultType | None = None,
) -> Any:
    """Run a model on an image of the datastore, of a session or sent along; answers the file of its labels."""
    app = app_instance()
    if model not in app._infers:
        raise UnknownModelError(f"there is no model {model!r}; the models are: {', '.join(app._infers)}")
    if not file and not session_id:
        _check_image_id(app.datastore(), image)
    if session_id and app.sessions().get_session(session_id) is None:
        raise UnknownImageError(f"there is no session {session_id!r}")
    allowed = {key: value for key, value in _parse_params(params).items() if key not in _SERVER_KEYS}
    return run_inference(
        background_tasks, model, "" if file else image, session_id, json.dumps(allowed), file, label, output
    )


def _parse_params(params: str) -> dict[str, Any]:
    try:
        parsed = json.loads(params or "{}")
    except (ValueError, RecursionError):
        raise HTTPException(422, "params must be a JSON object") from None
    if not isinstance(parsed, dict):
        raise HTTPException(422, "params must be a JSON object")
    tag = parsed.get("label_tag", "original")
    if not isinstance(tag, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", tag):
        raise HTTPException(422, "label_tag must be letters, digits, '-' and '_'")
    return parsed


def _check_image_id(datastore: Any, image: str) -> None:
    """Let only what the datastore knows pass on.

    Raises:
        UnknownImageError: For everything else, paths among it.
    """
    if not image:
        raise HTTPException(422, "no image: give image=<id of the datastore>, session_id=<session> or a file")
    if isinstance(datastore, DICOMWebDatastore):
        known = UID(image).is_valid and (_is_fetched(datastore, image) or _is_on_server(datastore, image))
    else:
        known = image in datastore.list_images()
    if not known:
        raise UnknownImageError(f"the datastore has no image {image!r}")


def _is_fetched(datastore: DICOMWebDatastore, series: str) -> bool:
    return series in LocalDatastore.list_images(datastore)


def _is_on_server(datastore: DICOMWebDatastore, series: str) -> bool:
    return bool(datastore._client.search_for_series(search_filters={"SeriesInstanceUID": series}))
