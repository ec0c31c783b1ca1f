"""MONAI Label's routes as this server has them: what is not in a list here is not served."""

from __future__ import annotations

import logging
from importlib.metadata import version

from fastapi import FastAPI
from monailabel.config import settings
from monailabel.endpoints import activelearning, info, train
from monailabel.endpoints import datastore as upstream_datastore

from lib.server.http.head import with_head
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
_KEPT = ("/openapi.json", "/static", "/favicon.ico")
_UNCHANGED = Guard()


def replace_upstream_routes(app: FastAPI) -> None:
    """Serve MONAI Label's routes as they are mended, and no others of its own but files that come with it.

    Its login is left out as well: :mod:`lib.server.auth` has it.

    Raises:
        LookupError: If MONAI Label's routes are not those that the mends were written for.
    """
    found = version("monailabel")
    if found != _WRITTEN_FOR:
        logger.warning("The mends of MONAI Label were written for %s; this is %s", _WRITTEN_FOR, found)
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) in _KEPT]
    with_head(app.router)
    routers = [
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
    for router in routers:
        app.include_router(with_head(router), prefix=settings.MONAI_LABEL_API_STR)
