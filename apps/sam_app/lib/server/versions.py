"""Routes for what was learned here: which versions there are, and which one is served."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from monailabel.endpoints.user.auth import User as MonaiUser
from pydantic import BaseModel

from lib.base.request_record import note
from lib.sam.models.versions import Version, VersionStore
from lib.server.auth.roles import ADMINISTERING, SEGMENTING

router = APIRouter(tags=["Versions"])

_User = Annotated[MonaiUser, Depends(SEGMENTING)]
_Admin = Annotated[MonaiUser, Depends(ADMINISTERING)]


class LearnedVersion(BaseModel):
    """One version: its number, when it was made and of how much, mean Dice before and after, and why it is served."""

    version: int
    created: str
    learned: dict[str, int]
    held_out: dict[str, int]
    verdict: dict[str, Any]


class LearnedVersions(BaseModel):
    """All versions of a model, or of a label that is found without prompts; ``served``: null is the published model."""

    name: str
    served: int | None
    versions: list[LearnedVersion]


@router.get("/versions/", summary="What was learned here")
def list_versions(request: Request, user: _User) -> list[LearnedVersions]:
    """Return all versions, by name, the oldest first."""
    store = _store(request)
    return [_described(store, name) for name in store.names()]


@router.post("/versions/{name}/promote", summary="Serve a version from now on")
def promote(request: Request, name: str, version: int, user: _Admin) -> LearnedVersions:
    """Serve a version in every server with this model folder; what is being answered finishes with the present one."""
    store = _store(request)
    promoted = store.promote(name, version)
    note(model=promoted.title)
    return _described(store, name)


@router.post("/versions/{name}/rollback", summary="Serve what was served before")
def rollback(request: Request, name: str, user: _Admin) -> LearnedVersions:
    """Serve the version that was served before the present one, or the model as it was published."""
    store = _store(request)
    earlier = store.rollback(name)
    note(model=earlier.title if earlier else name)
    return _described(store, name)


def _store(request: Request) -> VersionStore:
    store: VersionStore = request.app.state.versions
    return store


def _described(store: VersionStore, name: str) -> LearnedVersions:
    return LearnedVersions(
        name=name, served=store.served(name), versions=[_in_short(version) for version in store.versions(name)]
    )


def _in_short(version: Version) -> LearnedVersion:
    facts = {key: version.manifest.get(key, default) for key, default in _DEFAULTS.items()}
    return LearnedVersion(version=version.number, **facts)


_DEFAULTS: dict[str, Any] = {"created": "", "learned": {}, "held_out": {}, "verdict": {}}
