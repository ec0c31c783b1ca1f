"""Bring the app's routes and mends onto MONAI Label's running FastAPI app."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from lib.server import infer_route, routes
from lib.server.cors import restrict_cors
from lib.server.docs import docs_routes
from lib.server.errors import add_error_handlers
from lib.server.health import HealthReport
from lib.server.results import ResultStore
from lib.server.segmentation_service import SegmentationService

if TYPE_CHECKING:
    from main import SamApp

logger = logging.getLogger(__name__)


def mount(sam_app: SamApp) -> None:
    """Add the routes in front of MONAI Label's own, and replace what :mod:`lib.server` mends.

    Called once, when the server has initialised the app and before it answers the first request.

    Raises:
        OSError: If the results' folder cannot be made.
    """
    from monailabel.app import app

    options = sam_app.options
    store = ResultStore(
        options.results,
        max_age_seconds=options.results_max_days * 86400,
        max_bytes=options.results_max_mb * 2**20,
    )
    service = SegmentationService(sam_app, sam_app.engine, store, max_queue=options.max_queue)
    app.state.segmentation_service = service
    app.state.health_report = HealthReport(sam_app.engine, service)
    app.state.max_upload_bytes = int(options.max_upload_mb * 2**20)

    upstream = list(app.router.routes)
    app.include_router(routes.router)
    app.include_router(infer_route.router)
    ours = [route for route in app.router.routes if route not in upstream]
    app.router.routes[:] = [*docs_routes(app), *ours, *upstream]

    add_error_handlers(app)
    restrict_cors(app, options.cors_origins)
    app.openapi_schema = None
    app.middleware_stack = None  # built anew, with the above, at the first request
    logger.info("Results: %s", options.results)
    logger.info("Web pages that may call the server: %s", ", ".join(options.cors_origins) or "none")
