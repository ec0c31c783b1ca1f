"""Fix: MONAI Label 0.8.5's ``/session`` routes extract archives to anywhere, and reveal paths of the server.

``uncompress`` unpacks a tar file whose members may be called ``../…`` or be links; no client that comes with MONAI
Label uses it, and several files can be sent without an archive. Of two files with one name the first is lost. Everybody
who has an id can use the session. :mod:`lib.server.upstream.session_store` stores the sessions.
"""

import os
from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, HTTPException, UploadFile
from fastapi.responses import FileResponse
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import get_mime_type

from lib.server.auth.users import CurrentUser, User
from lib.server.http.body_check import form_only
from lib.server.http.forms import MAX_SESSION_FILES, not_empty
from lib.server.observe.image_facts import note_uploads
from lib.server.upstream.arguments import plain_name
from lib.server.upstream.guarded_routes import held
from lib.server.upstream.session_store import DESCRIPTION, OwnedSession, SessionStore
from lib.studies.displayed_images import note_viewer

_HIDDEN_KEYS = ("path", "owner")

router = APIRouter(
    prefix="/session",
    tags=["Session"],
    dependencies=[Depends(note_viewer)],
    form_limits={"max_files": MAX_SESSION_FILES},
)


@router.put("/", summary="Create new session with Image", dependencies=[Depends(form_only)])
def create_session(
    user: CurrentUser, files: Annotated[list[UploadFile], File()], uncompress: bool = False, expiry: int = 0
) -> dict[str, Any]:
    """Store an image, or the files of a series, for its sender; it is removed if it is not used for some time."""
    if uncompress:
        raise HTTPException(422, "archives are not unpacked: send the image's files themselves")
    names = _plain_names(files)
    note_uploads(files)
    sent = zip(names, (file.file for file in files), strict=True)
    session = _store().add(sent, expiry, user.username)
    app_instance().prepare(lambda: session.image)
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


def _plain_names(files: list[UploadFile]) -> list[str]:
    names = [plain_name(os.path.basename(not_empty(file).filename or "")) for file in files]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise HTTPException(409, f"several files are called {twice[0]!r}: one would replace the other, so rename them")
    if names == [DESCRIPTION]:
        raise HTTPException(409, f"a session keeps its description in {DESCRIPTION}: give the file another name")
    return names


def _public_description(session: OwnedSession) -> dict[str, Any]:
    """Return a session's description for its client, with its image's name instead of the path."""
    description = {key: value for key, value in vars(session).items() if key not in _HIDDEN_KEYS}
    return {**description, "image": os.path.basename(session.image)}
