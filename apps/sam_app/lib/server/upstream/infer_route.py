"""Fix: MONAI Label 0.8.5 runs inference on the event loop and lets a client name any file of the server.

Its ``POST /infer/{model}`` is ``async def`` around blocking work, so that no other request is served meanwhile; and
``image`` in the query or in ``params`` is opened as a path if there is such a file. Before each inference it computes
what ``/info/`` returns, without using it: with a DICOMweb server that is a search for all its series, for which every
click waits. Uploaded files stay on the disk if inference fails. A session's id becomes a path as well; the file at that
path says which image to open.

This route replaces it, runs in a worker thread, accepts only images of the datastore, sessions and uploads and only
the ``params`` of :class:`~lib.server.upstream.viewer_params.ViewerParams`, and runs the request itself.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.responses import FileResponse
from monailabel.endpoints.infer import ResultType, send_response
from monailabel.interfaces.utils.app import app_instance

from lib.base.client_key import client_key
from lib.base.request_record import current_record, note
from lib.dicomweb.datastore import for_inference
from lib.dicomweb.dicom_seg import dicom_seg_response
from lib.server.admission import Admission
from lib.server.auth.roles import LABELLING, monai_user
from lib.server.auth.users import CurrentUser
from lib.server.http.body_check import FormText, form_only
from lib.server.observe.image_facts import note_datastore_image, note_image_file, note_uploads
from lib.server.upstream.arguments import known_image, neutral_upload, on_disk, parsed_object
from lib.server.upstream.displayed_image import check_displayed
from lib.server.upstream.session_routes import session_of
from lib.server.upstream.viewer_params import ViewerParams, read_params
from lib.studies.displayed_images import current_viewer, note_viewer

router = APIRouter(tags=["Infer"], dependencies=[Depends(note_viewer)])

_MAX_READ_BYTES = 4 << 20


@router.post("/infer/{model}", summary="Run inference for a model", dependencies=[Depends(form_only)])
def infer(
    request: Request,
    background_tasks: BackgroundTasks,
    model: str,
    user: CurrentUser,
    image: str = "",
    session_id: str = "",
    params: Annotated[FormText, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
    output: ResultType | None = None,
) -> Any:
    """Run a model on an image of the datastore, of a session or an upload; returns the file of its labels."""
    app = app_instance()
    app.require_model(model)
    session = None
    if session_id:
        session = session_of(session_id, user)
        note_image_file(Path(session.image))
    elif file:
        note_uploads([file])
    elif not image:
        raise HTTPException(422, "no image: give image=<id of the datastore>, session_id=<session> or a file")
    file, label = neutral_upload(file), neutral_upload(label)
    given = "" if file or session_id else image
    if output == ResultType.dicom_seg and not given and not session:
        raise HTTPException(422, "output=dicom_seg is for images of the datastore and of sessions")
    note(model=model)
    sent = read_params(ViewerParams, parsed_object(params))
    note(prompts=sent.counts())
    if sent.save_label:
        if not given:
            raise HTTPException(422, "save_label is for images of the datastore; of others, the response has the label")
        asyncio.run(LABELLING(monai_user(request)))
    client, viewer = client_key(request, user.username, sent.client_id), current_viewer(sent.client_id)
    images = for_inference(app.datastore())
    admission: Admission = request.app.state.admission
    with admission.inside(user.share):
        if given:  # may ask a slow archive: admission bounds how many wait, so that threads stay free
            _check_image(given)
            check_displayed(images, given, viewer)
        asked = sent.request(
            model=model,
            image=session.image if session else on_disk(file) if file else given,
            client=client,
            by_index=output == ResultType.dicom_seg,  # it stores the position of each slice
            sent_label=on_disk(label) if label else None,
        )
        file_type = ResultType.image if output == ResultType.dicom_seg else output
        result = app.segment(asked, images)
        if given:  # the file may have been replaced while it was segmented: then the result is refused
            check_displayed(images, given, viewer)
        response = send_response(images, result, file_type, background_tasks)
        if output == ResultType.dicom_seg:
            series = session.image if session else images.get_image_uri(given)
            label_info = sent.label_info or _labels_of(result["params"]) or [{"name": sent.label}]
            made_by = result["params"].get("version", model)
            response = dicom_seg_response(Path(series), Path(response.path), label_info, model=made_by)
    note(checkpoint_sha256=result["params"]["checkpoint_sha256"])
    record = current_record()
    if given and record and not record.image_sha256:  # a DICOMweb server's series is only now on disk
        note_datastore_image(given)
    return _read(response) if isinstance(response, FileResponse) else response


def _read(response: FileResponse) -> Response:
    """Return the response with its file's content, read here unless it is large.

    FileResponse reads in other threads, for which a click would wait five times.
    """
    path = Path(response.path)
    if path.stat().st_size > _MAX_READ_BYTES:
        return response
    named = {"content-disposition": response.headers["content-disposition"]}
    return Response(path.read_bytes(), headers=named, media_type=response.media_type)


def _labels_of(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the ``label_info`` of a model with labels of its own, with the version that found each."""
    names: Mapping[str, int] = params["label_names"] or {}
    made_by = params.get("versions") or [params.get("version", params["model"])] * len(names)
    return [
        {"name": name, "idx": number, "model_name": version}
        for (name, number), version in zip(names.items(), made_by, strict=True)
    ]


def _check_image(image: str) -> None:
    """Raise for everything but ids of images that the datastore has, also for those that are paths as well."""
    known_image(image)
    if os.path.exists(image):  # upstream would open this
        raise HTTPException(409, f"{image!r} is also a file's name in the folder where the server was started")
