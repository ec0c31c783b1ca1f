"""The MONAI Label app: interactive segmentation with SAM. Start it with ``monailabel start_server --app``."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.activelearning.first import First

from lib.activelearning.random_sample import RandomSample
from lib.activelearning.uncertainty import Uncertainty
from lib.base.allocator import limit_arenas
from lib.base.locks import FolderInUseError
from lib.base.scratch import use_scratch_folder
from lib.base.threads import start_periodic
from lib.configs.sam import SamConfig
from lib.dicomweb.datastore import AddressError, DicomWebStore, for_inference, open_dicomweb
from lib.dicomweb.reach import warn_if_unreachable
from lib.imaging.decoding.isolation import start_workers
from lib.imaging.decoding.memory_budget import budget
from lib.imaging.image_cache import ImageCache
from lib.infers.prefetch import Prefetcher
from lib.infers.sam_task import SamTask
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import CheckpointError, CheckpointStore
from lib.sam.models.registry import DEFAULT_MODEL, MODELS, ModelSpec, UnknownModelError, get_spec
from lib.server.app import create_app
from lib.server.http.connections import limit_connections, raise_file_limit
from lib.server.observe.audit import AuditLogError
from lib.server.observe.log_hygiene import clean_logs
from lib.server.options import OptionError, ServerOptions
from lib.server.upstream.check import check_upstream
from lib.server.upstream.guarded_routes import UpstreamError
from lib.server.upstream.saved_inference import infer_and_save
from lib.server.upstream.seam import serve
from lib.server.upstream.session_store import SessionStore
from lib.server.upstream.temporary_files import remove_log_configuration, track_temporary_files
from lib.studies.folder_datastore import FolderDatastore
from lib.studies.folder_index import StudiesError
from lib.studies.folder_place import open_folder
from lib.transforms.load import LoadMedicalImage
from lib.transforms.request import SegmentRequest
from lib.version import VERSION

logger = logging.getLogger(__name__)

_CLEAN_EVERY_S = 300.0


class SamApp(MONAILabelApp):
    """SAM models as MONAI Label inference tasks, and the REST routes on the same server.

    Args:
        app_dir: This file's folder.
        studies: A folder of images, or the URL of a DICOMweb server.
        conf: Options from ``--conf KEY VALUE``, see :class:`~lib.server.options.ServerOptions`.

    Raises:
        SystemExit: If it cannot start; the message says why and what to do.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        limit_arenas()
        clean_logs()
        _use_scratch_folder()
        raise_file_limit()
        start_workers()
        self._model_dir = Path(app_dir) / "model"
        try:
            self.options = ServerOptions.from_conf(conf, Path(app_dir))
            check_upstream(any_version=self.options.upstream == "unchecked")
            specs = _chosen_models(self.options.models, self._model_dir)
        except (OptionError, UpstreamError, UnknownModelError, CheckpointError) as error:
            raise _refusal(error) from None
        budget.total = int(self.options.memory_mb * 2**20)
        self.images = ImageCache()
        budget.add_evictor(self.images.evict_oldest)
        limits = self.options.limits
        self._read = LoadMedicalImage(limits, self.images)
        self._look = LoadMedicalImage(limits)
        self.engine = Engine(
            specs,
            self._model_dir,
            device=self.options.device,
            precision=self.options.precision,
            compiled=self.options.compile,
            embedding_files=self.options.embedding_files(),
        )
        self.ahead = Prefetcher(self.engine, self.options.ahead)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name=f"SAM {VERSION}",
            description="Interactive segmentation with the Segment Anything Model",
            version=VERSION,
            labels=list(self.options.labels),
        )

    def init_infers(self) -> dict[str, InferTask]:
        """The tasks of every chosen model."""
        tasks: dict[str, InferTask] = {}
        shared = {"limits": self.options.limits, "images": self.images, "ahead": self.ahead}
        for name in self.engine.specs:
            config = SamConfig()
            config.init(name, str(self._model_dir), self.conf, None, engine=self.engine, **shared)
            tasks.update(config.infer())
        logger.info("SAM models: %s", ", ".join(tasks))
        return tasks

    def init_datastore(self) -> Datastore:
        """A folder as it is mended here, or a server."""
        if self.studies.startswith(("http://", "https://")):
            remote: Datastore = super().init_datastore()
            return remote
        try:
            return open_folder(Path(self.studies), self.options.datastore, self._read, self._look)
        except StudiesError as error:
            raise _refusal(error) from None
        except FolderInUseError as error:
            raise _refusal(f"{error}; give each its own studies, as one would lose the other's labels") from None

    def init_remote_datastore(self) -> Datastore:
        """A DICOMweb server as it is mended here; MONAI Label's other kinds of servers as they are there."""
        if settings.MONAI_LABEL_DATASTORE.lower() in ("xnat", "dsa"):
            remote: Datastore = super().init_remote_datastore()
            return remote
        try:
            store = open_dicomweb(self.studies, exclusive=True)
        except AddressError as error:
            raise _refusal(error) from None
        except FolderInUseError as error:
            raise _refusal(f"{error}; give each its own with MONAI_LABEL_DICOMWEB_CACHE_PATH=FOLDER") from None
        warn_if_unreachable(self.studies)
        return store

    def segment(self, request: SegmentRequest, datastore: Datastore | None = None) -> dict[str, Any]:
        """Run a request's task, which reads a DICOMweb server's series as DICOM; keep its result if it says so."""
        store = for_inference(datastore or self.datastore())
        return infer_and_save(lambda asked: self.infer(asked.as_monai(), store), request, store)

    def info(self) -> dict[str, Any]:
        """What a client asks for when it connects: from then on it gets a DICOMweb server's series as they are now."""
        store = self.datastore()
        if isinstance(store, DicomWebStore):
            store.folders.expire_all()
        found: dict[str, Any] = super().info()
        return found

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """The image to label next, which can be opened and is then prepared for the first click."""
        sample: dict[str, Any] = super().next_sample(request)
        folder = self.datastore()
        while sample and isinstance(folder, FolderDatastore) and not folder.opens(sample["id"]):
            sample = super().next_sample(request)
        if sample:
            store = for_inference(folder)
            self.prepare(lambda: str(store.get_image_uri(sample["id"])), str(request.get("client_id") or ""))
        return sample

    def prepare(self, find: Callable[[], str], user: str = "") -> None:
        """Read an image and encode it from its middle on, in the background: somebody is about to see it.

        Args:
            find: Tells where it is: a file, or a folder of DICOM files.
            user: For whom, if that is known.
        """
        model = self.engine.default_model
        task: SamTask = self._infers[model]
        self.ahead.opened(model, user, lambda: task.read(find()))

    def init_strategies(self) -> dict[str, Strategy]:
        """Which image to label next."""
        return {"first": First(), "random": RandomSample(), "uncertainty": Uncertainty()}

    def _load_sessions(self, load: bool = False) -> SessionStore | None:
        """Sessions as they are mended here."""
        path, expiry = settings.MONAI_LABEL_SESSION_PATH, settings.MONAI_LABEL_SESSION_EXPIRY
        return SessionStore(path, expiry, self.images.forget_gone) if load else None

    def on_init_complete(self) -> None:
        """The server is about to answer: from now on by our own app.

        Upstream's own would start a thread that cleans up until an error ends it, and score labels, which has no
        function here.
        """
        start_periodic("session-cleaner", self._clean, _CLEAN_EVERY_S)
        try:
            serve(create_app(self))
        except FolderInUseError as error:
            raise _refusal(f"{error}; give each its own with --conf results FOLDER") from None
        except UpstreamError as error:
            raise _refusal(error) from None
        except AuditLogError as error:
            raise _refusal(f"{error}; choose another place with --conf audit_log FILE") from None
        except OSError as error:
            reason = f"the results' folder {self.options.results} cannot be used: {error.strerror}"
            raise _refusal(f"{reason}; choose another with --conf results FOLDER") from None
        limit_connections(self.options.max_connections)

    def _clean(self) -> None:
        """Remove sessions that are expired, and forget images that are gone from the studies."""
        self.cleanup_sessions()
        self.images.forget_gone()


def _chosen_models(names: Sequence[str], model_dir: Path) -> list[ModelSpec]:
    """The models of ``--conf models``; if it names none the bundled one and those whose checkpoint is there.

    Raises:
        UnknownModelError: For a name that is not known.
        CheckpointError: For a model whose checkpoint is missing or wrong.
    """
    store = CheckpointStore(model_dir)
    if not names:
        present = [name for name, spec in MODELS.items() if store.path(spec).is_file()]
        names = [DEFAULT_MODEL, *(name for name in present if name != DEFAULT_MODEL)]
    specs = [get_spec(name) for name in names]
    for spec in specs:
        store.verified(spec)
    return specs


def _use_scratch_folder() -> None:
    """Before anything makes a temporary file."""
    try:
        remove_log_configuration()
        use_scratch_folder()
    except OSError as error:
        reason = f"no folder for temporary files can be made in {tempfile.gettempdir()}: {error.strerror}"
        raise _refusal(f"{reason}; choose another place by the environment's variable TMPDIR") from None
    track_temporary_files()


def _refusal(reason: object) -> SystemExit:
    """An error that ends the server with its reason alone: the server prints what it is raised with."""
    sys.tracebacklimit = 0
    return SystemExit(f"Cannot start: {reason}")
