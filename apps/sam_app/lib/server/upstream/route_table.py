"""MONAI Label's routes as this server has them: what is not in a list here is not served."""

from __future__ import annotations

import logging
from importlib.metadata import version

from fastapi import APIRouter
from monailabel.endpoints import activelearning, info, train
from monailabel.endpoints import datastore as upstream_datastore

from lib.server.upstream import (
    batch_infer,
    datastore_routes,
    dicom_proxy,
    infer_route,
    next_sample,
    session_routes,
    unserved_routes,
    viewer,
)
from lib.server.upstream.guarded_routes import Guard, guarded_router

logger = logging.getLogger(__name__)

_WRITTEN_FOR = "0.8.5"
_UNCHANGED = Guard()


def upstream_routers() -> list[APIRouter]:
    """MONAI Label's routes as they are mended; no others of its own are served.

    Its login is left out as well: :mod:`lib.server.auth` has it.

    Raises:
        LookupError: If MONAI Label's routes are not those that the mends were written for.
    """
    found = version("monailabel")
    if found != _WRITTEN_FOR:
        logger.warning("The mends of MONAI Label were written for %s; this is %s", _WRITTEN_FOR, found)
    return [
        datastore_routes.router,  # before the same of upstream's
        guarded_router(info.router, {"GET /info/": _UNCHANGED}),
        guarded_router(activelearning.router, next_sample.GUARDS),
        guarded_router(upstream_datastore.router, datastore_routes.GUARDS),
        session_routes.router,
        guarded_router(train.router, {"GET /train/": _UNCHANGED, "DELETE /train/": _UNCHANGED}),
        infer_route.router,
        batch_infer.router,
        viewer.router,
        dicom_proxy.router,
        unserved_routes.router,
    ]
