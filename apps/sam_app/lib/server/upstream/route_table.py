"""MONAI Label's routes that this server has: a route that is not listed here is not served."""

from __future__ import annotations

from fastapi import APIRouter
from monailabel.endpoints import activelearning, datastore, info, train

from lib.server.upstream.faults import FAULTS
from lib.server.upstream.guarded_routes import Guard, guarded_router

_GUARDED = (info.router, activelearning.router, datastore.router, train.router)
_UNCHECKED = ("GET /info/", "GET /train/", "DELETE /train/")
"""Routes that are served unchanged, except that they work off the event loop."""


def upstream_routers() -> list[APIRouter]:
    """Return MONAI Label's routes, fixed and without its login, which :mod:`lib.server.auth` replaces.

    Raises:
        UpstreamError: If MONAI Label's routes are not those that the guards were written for.
    """
    guards = dict.fromkeys(_UNCHECKED, Guard())
    for fault in FAULTS:
        guards.update(fault.guards)
    ours = [fault.router for fault in FAULTS if fault.router is not None]
    return [*ours, guarded_router(_GUARDED, guards)]
