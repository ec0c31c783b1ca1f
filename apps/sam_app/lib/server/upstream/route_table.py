"""MONAI Label's routes as this server has them: what is not in a list here is not served."""

from __future__ import annotations

from fastapi import APIRouter
from monailabel.endpoints import activelearning, datastore, info, train

from lib.server.upstream.faults import FAULTS
from lib.server.upstream.guarded_routes import Guard, guarded_router

_GUARDED = (info.router, activelearning.router, datastore.router, train.router)
_KEPT = ("GET /info/", "GET /train/", "DELETE /train/")
"""What is served as it is, but for working off the event loop."""


def upstream_routers() -> list[APIRouter]:
    """MONAI Label's routes, mended; its login is left out: :mod:`lib.server.auth` has it.

    Raises:
        UpstreamError: If MONAI Label's routes are not those that the guards were written for.
    """
    guards = dict.fromkeys(_KEPT, Guard())
    for fault in FAULTS:
        guards.update(fault.guards)
    ours = [fault.router for fault in FAULTS if fault.router is not None]
    return [*ours, guarded_router(_GUARDED, guards)]
