"""The server's app in this process with users, as its routes are asked by them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import monailabel.interfaces.utils.app
import pytest
from fastapi import FastAPI
from monailabel.config import settings

from lib.server.app import create_app
from lib.server.auth.api_keys import make_key
from lib.server.auth.key_file import KeyFile
from support.asgi import ask
from support.in_process import made_app

OWNER, OTHER, TRAINER, LABELLER = "owner", "other", "trainer", "labeller"
_ROLES = {TRAINER: ["annotator"], LABELLER: ["user", "annotator"]}
"""Of users; the others may segment and not store labels."""


class ServedApp:
    """The app and its users' logins."""

    def __init__(self, app: FastAPI, folder: Path, logins: dict[str, dict[str, str]]) -> None:
        self.app = app
        self.folder = folder
        self.studies = folder / "studies"
        self._logins = logins

    def ask(
        self, method: str, path: str, user: str | None = OWNER, headers: dict[str, str] | None = None, **how: Any
    ) -> httpx.Response:
        login = self._logins[user] if user else {}
        return ask(self.app, method, path, headers={**login, **(headers or {})}, **how)

    def get(self, path: str, user: str | None = OWNER) -> httpx.Response:
        return self.ask("GET", path, user)

    def segment(self, sam_input: dict[str, Any], content: bytes | None = None, **how: Any) -> httpx.Response:
        files = {} if content is None else {"file": ("image", content)}
        return self.ask("POST", "/segment_input_image/", files=files, data={"sam_input": json.dumps(sam_input)}, **how)

    def send(self, content: bytes) -> str:
        """Send an image without prompts; answers the result's name."""
        done = self.segment({"automatic": False}, content)
        assert done.status_code == 200, done.text
        return f"{done.json()['timestamp']:.6f}"

    def put_session(self, *files: tuple[str, bytes], user: str = OWNER) -> str:
        """Send an image, or the files of a series; answers the session's id."""
        made = self.ask("PUT", "/session/", user, files=[("files", file) for file in files])
        assert made.status_code == 200, made.text
        return str(made.json()["session_id"])

    def stored(self) -> set[Path]:
        return set((self.folder / "results").rglob("*"))

    def audited(self, route: str) -> list[dict[str, Any]]:
        """The audit log's lines of a route, once there is one; empty after some seconds without."""
        deadline = time.monotonic() + 5
        while not (found := self._audited(route)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def _audited(self, route: str) -> list[dict[str, Any]]:
        lines = map(json.loads, (self.folder / "audit.jsonl").read_text().splitlines())
        return [line for line in lines if route in line["route"]]


@contextmanager
def served_app(folder: Path, *, studies: str = "", **conf: str) -> Iterator[ServedApp]:
    """Serve the app; arguments as of :func:`~support.in_process.made_app`, with the users besides."""
    logins = {}
    keys = folder.with_name(f"{folder.name}.keys.json")
    for name in (OWNER, OTHER, TRAINER, LABELLER):
        key, entry = make_key(name, _ROLES.get(name, ["user"]), None)
        KeyFile(keys).add(entry)
        logins[name] = {"Authorization": f"Bearer {key}"}
    with (
        made_app(folder, studies=studies, api_keys=str(keys), **conf) as sam_app,
        pytest.MonkeyPatch.context() as patch,
    ):
        key = f"{settings.MONAI_LABEL_APP_DIR}{settings.MONAI_LABEL_STUDIES}"
        patch.setitem(monailabel.interfaces.utils.app.apps, key, sam_app)  # as when the server starts
        app = create_app(sam_app)
        yield ServedApp(app, folder, logins)
        app.state.observer.audit.close()
        app.state.segmentation_service.store.close()
