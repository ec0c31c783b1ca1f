"""The server's app: its routes, middleware and error handlers, each in the order in which they apply."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.middleware import Middleware
from monailabel.config import settings
from monailabel.endpoints.user.auth import get_current_user
from starlette.middleware.errors import ServerErrorMiddleware

from lib.base.threads import start_periodic
from lib.dicomweb.datastore import for_inference
from lib.imaging.decoding.memory_budget import MemoryBudget
from lib.sam.models.versions import FOLDER as LEARNED
from lib.server import exporting, previews, thumbnails, versions, viewed_labels, viewing
from lib.server.admission import Admission
from lib.server.auth import login
from lib.server.auth.authenticator import Authenticator, make_authenticator
from lib.server.auth.gate import Gate, user_of_request
from lib.server.auth.openapi import describe_login
from lib.server.auth.pages import PageCheck, Pages, accepted_hosts, warn_if_exposed
from lib.server.auth.roles import segmenting_user
from lib.server.batch import BatchInference
from lib.server.http.body_check import BodyCheck, BodyLimit
from lib.server.http.errors import ERROR_HANDLERS, error_response
from lib.server.http.forms import MAX_PARTS, spool_forms
from lib.server.http.head import with_head
from lib.server.http.response_headers import RelativeRedirects, SecurityHeaders
from lib.server.http.root_port import RootPort
from lib.server.interactive.service import MarkingService
from lib.server.itksnap import routes as itksnap
from lib.server.itksnap.service import ItkSnapService
from lib.server.nninteractive import routes as nninteractive
from lib.server.nninteractive.service import NnInteractiveService
from lib.server.observe import metrics
from lib.server.observe.audit import AuditLog
from lib.server.observe.middleware import Observer, ObservingMiddleware
from lib.server.options import ServerOptions
from lib.server.page.routes import page_routes
from lib.server.rest import routes
from lib.server.rest.health import HealthReport
from lib.server.rest.results import ResultStore
from lib.server.rest.segmentation_service import SegmentationService
from lib.server.training import TrainingByItself, Trainings
from lib.server.upstream.cors import cors
from lib.server.upstream.docs import docs_routes
from lib.server.upstream.faults import upstream_routers
from lib.server.upstream.images import StoredImages
from lib.transforms.load import LoadMedicalImage
from lib.version import VERSION

if TYPE_CHECKING:
    from main import SamApp

logger = logging.getLogger(__name__)

_LOOK_FOR_LABELS_S = 60.0


def create_app(sam_app: SamApp) -> FastAPI:
    """Return the app that serves everything; starts processing the queue of segmentations.

    Args:
        sam_app: Its tasks are served, with its options.

    Raises:
        AuditLogError: If the audit log cannot be written.
        FolderInUseError: If another server uses the results' folder.
        OSError: If the results' folder cannot be made.
    """
    options = sam_app.options
    observer = Observer(AuditLog(options.audit_log, max_bytes=int(options.audit_max_mb * 2**20)), metrics.Metrics())
    service = _start_service(sam_app, observer)
    authenticator = make_authenticator(options.api_keys)
    app = FastAPI(
        title="SAM segmentation",
        version=VERSION,
        description="[Segment an image in the browser](sam/), without any other client.",
        docs_url=None,
        redoc_url=None,
        routes=[*docs_routes(), *page_routes()],
        middleware=_middleware(options, observer, authenticator),
        exception_handlers=ERROR_HANDLERS,
        form_limits={"max_fields": MAX_PARTS, "max_files": MAX_PARTS},
    )
    include_routers(app, with_login=authenticator is not None, with_itksnap=bool(options.itksnap_port))
    spool_forms()
    if authenticator is None:
        warn_if_exposed(sys.argv[1:])
    else:
        settings.MONAI_LABEL_AUTH_ENABLE = True  # without it MONAI Label's RBAC lets everyone pass
        app.dependency_overrides[get_current_user] = user_of_request
        app.state.authenticator = authenticator
    app.state.find_user = segmenting_user
    app.state.observer = observer
    app.state.admission = service.admission
    app.state.segmentation_service = service
    app.state.images = StoredImages()
    app.state.load_image = LoadMedicalImage(options.limits, sam_app.images)
    app.state.thumbnails = thumbnails.Thumbnails(app.state.load_image)
    app.state.previews = previews.Previews(sam_app.engine, sam_app.ahead)
    app.state.batches = BatchInference(
        sam_app.segment,
        service.admission,
        max_seconds=options.max_seconds,
        at_once=lambda: sam_app.engine.encodes_at_once,
    )
    app.state.versions = sam_app.engine.versions
    app.state.trainings = trainings = Trainings(observer.training_ended)
    if options.train:
        _train_by_itself(sam_app, trainings, service.admission)
    _start_marking(app, sam_app, observer, service.admission)
    app.state.health_report = HealthReport(sam_app.engine, service)
    logger.info("Results: %s", options.results)
    logger.info("Web pages that may call the server: %s", ", ".join(options.cors_origins) or "none")
    return app


def include_routers(app: FastAPI, *, with_login: bool, with_itksnap: bool) -> None:
    """Add the routes of every protocol to an app, and describe them in its OpenAPI document.

    Args:
        app: An app without them.
        with_login: Whether there are API keys or OpenID Connect, and so the routes to log in.
        with_itksnap: Whether ITK-SNAP's protocol is served.
    """
    for router in (
        routes.router,
        viewing.router,
        thumbnails.router,
        previews.router,
        exporting.router,
        viewed_labels.router,
        versions.router,
        metrics.router,
        *((login.router,) if with_login else ()),
    ):
        app.include_router(with_head(router))
    for router in nninteractive.routers():
        app.include_router(with_head(router))
    if with_itksnap:
        app.include_router(itksnap.router)
    for router in upstream_routers():
        app.include_router(with_head(router), prefix=settings.MONAI_LABEL_API_STR)
    describe_login(app, is_needed=with_login)


def _train_by_itself(sam_app: SamApp, trainings: Trainings, admission: Admission) -> None:
    """Start trainings of the default model whenever enough labels were accepted."""
    model = sam_app.engine.default_model
    task = sam_app._trainers.get(model)
    if task is None:
        logger.warning("%s cannot be taught: --conf train has no effect", model)
        return

    def start() -> None:
        task.check({}, sam_app.datastore())
        trainings.start(lambda: task({}, for_inference(sam_app.datastore())), {"model": model})

    by_itself = TrainingByItself(
        sam_app.options.train,
        accepted=lambda: len(sam_app.datastore().get_labeled_images()),
        start=start,
        is_idle=lambda: admission.count == 0 and trainings.runs.running() is None,
        state=sam_app.engine.model_folder / LEARNED / "accepted.json",
    )
    start_periodic("training-by-itself", by_itself.look, _LOOK_FOR_LABELS_S)


def _middleware(options: ServerOptions, observer: Observer, authenticator: Authenticator | None) -> list[Middleware]:
    """Return the middleware, from the outermost to the innermost.

    FastAPI would create the response to an unhandled error outside of all of these, where it would not be observed;
    so it is created inside the first two.
    """
    pages = Pages(accepted_hosts(options.hosts, sys.argv[1:]), options.cors_origins)
    gate = [Middleware(Gate, authenticator=authenticator, pages=pages)] if authenticator else []
    root_port = [Middleware(RootPort, port=options.itksnap_port, prefix=itksnap.PREFIX)] if options.itksnap_port else []
    return [
        *root_port,
        Middleware(ObservingMiddleware, observer=observer, max_seconds=options.max_seconds),
        Middleware(SecurityHeaders),
        Middleware(ServerErrorMiddleware, handler=error_response),
        cors(options.cors_origins),
        *gate,
        Middleware(PageCheck, pages=pages, changing_paths=itksnap.CHANGING_PATHS),
        Middleware(
            BodyLimit,
            max_bytes=int(options.max_upload_mb * 2**20),
            max_seconds=options.max_seconds,
            array_paths=nninteractive.ARRAY_PATHS,
        ),
        Middleware(BodyCheck),
        Middleware(RelativeRedirects),
    ]


def _start_service(sam_app: SamApp, observer: Observer) -> SegmentationService:
    """Return the started service behind the REST routes, watched by the observer."""
    options = sam_app.options
    store = ResultStore(
        options.results,
        max_age_seconds=options.results_max_days * 86400,
        max_bytes=options.results_max_mb * 2**20,
        front=options.front,
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
    return service


def _start_marking(app: FastAPI, sam_app: SamApp, observer: Observer, admission: Admission) -> None:
    """Start the services for nnInteractive's clients and for ITK-SNAP's, watched by the observer."""
    options = sam_app.options
    shared: dict[str, Any] = {
        "admission": admission,
        "limits": options.limits,
        "memory": MemoryBudget(int(options.nninteractive_max_mb * 2**20)),
        "seconds": options.nninteractive_seconds,
        "ahead": options.ahead,
    }
    sessions = options.nninteractive_sessions
    app.state.nninteractive = NnInteractiveService(sam_app.engine, max_sessions=sessions, **shared)
    services: list[MarkingService[Any]] = [app.state.nninteractive]
    if options.itksnap_port:
        app.state.itksnap = ItkSnapService(sam_app.engine, **shared)
        services.append(app.state.itksnap)
    for service in services:
        service.start()
        observer.metrics.watch(service)
