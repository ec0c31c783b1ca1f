"""Mend: MONAI Label 0.8.5's ``/session`` routes extract archives to anywhere, and tell paths of the server.

``uncompress`` unpacks a tar file whose members may be called ``../…`` or be links; no client that comes with MONAI
Label asks for it, and several files can be sent as they are. Ids are joined to a path as they come, and the session's
description is read from a file there, which a client could have sent as an image. Of two files with one name the first
is lost.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from fastapi import HTTPException, UploadFile
from fastapi.responses import FileResponse
from monailabel.interfaces.utils.app import app_instance

from lib.server.image_facts import note_uploads
from lib.server.mends.arguments import plain_name, session_id
from lib.server.mends.guard import Guard
from lib.server.uploads import not_empty

_DESCRIPTION = "meta.info"


def _not_packed(uncompress: bool) -> bool:
    if uncompress:
        raise HTTPException(422, "archives are not unpacked: send the image's files themselves")
    return False


def _plainly_named(files: list[UploadFile]) -> list[UploadFile]:
    for file in files:
        file.filename = plain_name(os.path.basename(file.filename or ""))
        not_empty(file)
    names = Counter(str(file.filename) for file in files)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise HTTPException(409, f"several files are called {twice[0]!r}: one would replace the other, so rename them")
    if list(names) == [_DESCRIPTION]:  # a single file lies beside the description
        raise HTTPException(409, f"a session keeps its description in {_DESCRIPTION}: give the file another name")
    note_uploads(files)
    return files


def _file_or_description(answer: FileResponse | dict[str, Any]) -> FileResponse | dict[str, Any]:
    if not isinstance(answer, FileResponse):
        return _without_paths(answer)
    if os.path.isdir(answer.path):
        raise HTTPException(422, "a session of several files has no single image to download")
    return answer


def _without_paths(info: dict[str, Any]) -> dict[str, Any]:
    """A session's description; its image is told by its name alone."""
    return {key: value for key, value in info.items() if key != "path"} | {"image": os.path.basename(info["image"])}


def _created(answer: dict[str, Any]) -> dict[str, Any]:
    """What a client is told of its new session, whose image it is about to show."""
    app_instance().prepare(lambda: answer["session_info"]["image"])
    return {**answer, "session_info": _without_paths(answer["session_info"])}


GUARDS = {
    "GET /session/{session_id}": Guard({"session_id": session_id}, clean=_file_or_description),
    "PUT /session/": Guard({"uncompress": _not_packed, "files": _plainly_named}, clean=_created),
    "DELETE /session/{session_id}": Guard({"session_id": session_id}, clean=_without_paths),
}
