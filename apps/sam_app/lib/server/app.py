"""Bring the app's routes and mends onto MONAI Label's running FastAPI app."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from fastapi.middleware import Middleware

from lib.server.admission import Admission
from lib.server.auth.setup import install
from lib.server.batch import BatchInference
from lib.server.http.body_check import BodyCheck
from lib.server.http.body_limit import BodyLimit
from lib.server.http.connections import Connections, room_for_connections, watch_connections
from lib.server.http.errors import add_error_handlers
from lib.server.http.forms import bound_forms
from lib.server.http.head import with_head
from lib.server.http.redirects import RelativeRedirects
from lib.server.observe import metrics
from lib.server.observe.setup import observe
from lib.server.page.routes import page_routes
from lib.server.rest import routes
from lib.server.rest.health import HealthReport
from lib.server.rest.results import ResultStore
from lib.server.rest.segmentation_service import SegmentationService
from lib.server.upstream.cors import restrict_cors
from lib.server.upstream.docs import docs_routes
from lib.server.upstream.route_table import replace_upstream_routes

if TYPE_CHECKING:
    from main import SamApp

logger = logging.getLogger(__name__)


def mount(sam_app: SamApp) -> None:
    """Add the routes in front of MONAI Label's own, and replace what :mod:`lib.server` mends.

    Called once, when the server has initialised the app and before it answers the first request.

    Raises:
        AuditLogError: If the audit log cannot be written.
        OSError: If the results' folder cannot be made.
    """
    from monailabel.app import app

    options = sam_app.options
    observer = observe(
        app,
        audit_log=options.audit_log,
        audit_max_bytes=int(options.audit_max_mb * 2**20),
        max_seconds=options.max_seconds,
    )
    store = ResultStore(
        options.results,
        max_age_seconds=options.results_max_days * 86400,
        max_bytes=options.results_max_mb * 2**20,
    )
    admission = Admission(options.max_queue)
    service = SegmentationService(
        sam_app.segment,
        sam_app.engine,
        store,
        admission=admission,
        max_seconds=options.max_seconds,
        observe_job=observer.job_ended,
    )
    service.start()
    observer.metrics.watch(
        metrics.LiveState(
            sam_app.engine,
            running=lambda: admission.count,
            limit=admission.limit,
            results=store.stats,
            lost_audit_lines=lambda: observer.audit.lost,
        )
    )
    app.state.admission = admission
    app.state.segmentation_service = service
    app.state.batches = BatchInference(sam_app.segment, admission, max_seconds=options.max_seconds)
    app.state.health_report = HealthReport(sam_app.engine, service)

    replace_upstream_routes(app)
    upstream = list(app.router.routes)
    app.include_router(with_head(routes.router))
    app.include_router(with_head(metrics.router))
    install(app, options)
    ours = [route for route in app.router.routes if route not in upstream]
    app.router.routes[:] = [*docs_routes(app), *page_routes(), *ours, *upstream]

    add_error_handlers(app)
    bound_forms(app)
    restrict_cors(app, options.cors_origins)
    max_bytes = int(options.max_upload_mb * 2**20)
    app.user_middleware.append(Middleware(BodyLimit, max_bytes=max_bytes, max_seconds=options.max_seconds))
    app.user_middleware.append(Middleware(BodyCheck))
    app.user_middleware.append(Middleware(RelativeRedirects))
    proxies = os.environ.get("FORWARDED_ALLOW_IPS", "").replace(" ", "").split(",")  # as uvicorn reads it
    connections = Connections(room_for_connections(), options.max_connections, proxies)
    watch_connections(asyncio.get_running_loop(), connections)
    app.description = "[Segment an image in the browser](sam/), without any other client."
    app.openapi_schema = None
    app.middleware_stack = None  # built anew, with the above, at the first request
    logger.info("Results: %s", options.results)
    logger.info("Web pages that may call the server: %s", ", ".join(options.cors_origins) or "none")
