"""Fix: MONAI Label 0.8.5's ``/session`` routes extract archives to anywhere, and reveal paths of the server.

``uncompress`` unpacks a tar file whose members may be called ``../…`` or be links. Of two files with one name the first
is lost, and several series become an image that cannot be read. Everybody who has an id can use the session. Here a ZIP
archive is unpacked, within limits, see :mod:`lib.server.upstream.session_files`, and no other archive;
:mod:`lib.server.upstream.session_store` stores the sessions.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, File, HTTPException, Query, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import get_mime_type
from pydantic import BaseModel, Field

from lib.base.request_record import note
from lib.imaging.formats.zip_archive import is_zip
from lib.server.auth.users import CurrentUser, User
from lib.server.http.body_check import form_only
from lib.server.http.errors import ErrorDetail
from lib.server.http.forms import MAX_SESSION_FILES
from lib.server.observe.image_facts import note_image_file
from lib.server.upstream.guarded_routes import held
from lib.server.upstream.session_files import SeveralSeriesError, one_image, stored_names
from lib.server.upstream.session_store import OwnedSession, SessionStore
from lib.studies.displayed_images import note_viewer

_HIDDEN_KEYS = ("path", "owner")


class SentSeries(BaseModel):
    """A series among the files that were sent."""

    uid: str = Field(description="Series Instance UID; empty if it is not stated")
    description: str
    modality: str
    images: int


class SeveralSeries(ErrorDetail):
    """The files are of several series."""

    series: list[SentSeries]

    @classmethod
    def of(cls, error: SeveralSeriesError) -> Self:
        """Return what the client is told of the error."""
        found = [
            SentSeries(uid=one.uid, description=one.description, modality=one.modality, images=len(one.files))
            for one in error.series
        ]
        return cls(detail=str(error), series=found)


router = APIRouter(
    prefix="/session",
    tags=["Session"],
    dependencies=[Depends(note_viewer)],
    form_limits={"max_files": MAX_SESSION_FILES},
)


@router.put(
    "/",
    summary="Create new session with Image",
    dependencies=[Depends(form_only)],
    response_model=None,
    responses={409: {"description": "The files are of several series", "model": SeveralSeries}},
)
def create_session(
    request: Request,
    user: CurrentUser,
    files: Annotated[list[UploadFile], File(description="An image, the files of a DICOM series, or a ZIP of either")],
    uncompress: bool = False,
    expiry: int = 0,
    series: Annotated[
        str, Query(max_length=64, description="Series Instance UID of the one to take, where there are several")
    ] = "",
) -> dict[str, Any] | JSONResponse:
    """Store an image, or the files of a series, for its sender; it is removed if it is not used for some time.

    A ZIP archive is unpacked. If there are several series, the answer is 409 with a list of them.
    """
    names = stored_names(files)
    if uncompress and not is_zip(files[0].file.read(4)):
        raise HTTPException(422, "only ZIP archives are unpacked: send one, or the image's files themselves")
    files[0].file.seek(0)
    app = app_instance()
    sent = zip(names, (file.file for file in files), strict=True)
    settle = one_image(int(app.options.max_upload_mb * 2**20), series)
    try:
        with request.app.state.admission.inside(user.share):
            session = _store().add(sent, expiry, user.username, settle)
    except SeveralSeriesError as error:
        note(reason=type(error).__name__)
        return JSONResponse(SeveralSeries.of(error).model_dump(), 409)
    note_image_file(Path(session.image))
    app.prepare(lambda: session.image)
    return {"session_id": session.name, "session_info": _public_description(session)}


@router.get("/{session_id}", summary="Get Session ID", response_model=None)
def get_session(
    session_id: str, user: CurrentUser, update_ts: bool = False, image: bool = False
) -> FileResponse | dict[str, Any]:
    """Return a session's description, or its image."""
    session = session_of(session_id, user, update_ts=update_ts)
    if not image:
        return _public_description(session)
    if os.path.isdir(session.image):
        raise HTTPException(422, "a session of several files has no single image to download")
    name = os.path.basename(session.image)
    return held(FileResponse(session.image, media_type=get_mime_type(session.image), filename=name))


@router.delete("/{session_id}", summary="Delete Session")
def remove_session(session_id: str, user: CurrentUser) -> dict[str, Any]:
    """Remove a session and its image."""
    session = session_of(session_id, user, update_ts=False)
    _store().remove_session(session_id)
    return _public_description(session)


def session_of(session_id: str, user: User, *, update_ts: bool = True) -> OwnedSession:
    """Return a session that the user may use; another user's counts as unknown.

    Args:
        session_id: As the client sent it.
        user: Who requests it.
        update_ts: Whether this is a use, which restarts its expiry time.

    Raises:
        HTTPException: 404 if there is none.
    """
    store = _store()
    session = store.get_session(session_id, update_ts=False)
    if session is None or not user.may_see(session.owner):
        raise HTTPException(404, f"there is no session {session_id!r}")
    if update_ts:
        store.get_session(session_id)
    return session


def _store() -> SessionStore:
    store: SessionStore | None = app_instance().sessions()
    if store is None:
        raise HTTPException(406, "this server keeps no sessions (MONAI_LABEL_SESSIONS)")
    return store


def _public_description(session: OwnedSession) -> dict[str, Any]:
    """Return a session's description for its client, with its image's name instead of the path."""
    description = {key: value for key, value in vars(session).items() if key not in _HIDDEN_KEYS}
    return {**description, "image": os.path.basename(session.image)}
