"""Moments between two steps of the store, met on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.server.rest import results
from lib.server.rest.manifest import Manifest
from lib.server.rest.results import ResultStore

FILE = {"sha256": "ff", "bytes": 8}


def test_a_request_that_is_finished_while_it_is_looked_up_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queued folder goes just before it is read; under its new name the result is there."""
    store = ResultStore(tmp_path / "store")
    with store.new() as pending:
        pending.write("input", b"an image")
        pending.queue({"user": "somebody", "input": FILE})
    read = results.read_manifest

    def finish_first(folder: Path, name: str) -> Manifest:
        if folder.name.endswith(".queued"):
            monkeypatch.undo()
            with store.resume(pending.timestamp) as resumed:
                resumed.finish(Manifest.model_validate({"user": "somebody", "input": FILE}))
        return read(folder, name)

    monkeypatch.setattr(results, "read_manifest", finish_first)
    assert store.find(pending.timestamp).state == "done"
    assert store.queued() == []
    store.close()
