"""The MONAI Label app: interactive segmentation with SAM. Start it with ``monailabel start_server --app``."""

import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First

from lib.activelearning.random_sample import RandomSample
from lib.activelearning.uncertainty import Uncertainty
from lib.base.allocator import limit_arenas
from lib.base.locks import FolderInUseError
from lib.base.scratch import use_scratch_folder
from lib.base.threads import start_periodic
from lib.dicomweb.connection import warn_if_unreachable
from lib.dicomweb.datastore import AddressError, DicomWebStore, for_inference, open_dicomweb
from lib.imaging.decoding.isolation import start_workers
from lib.imaging.decoding.memory_budget import budget
from lib.imaging.image_cache import ImageCache
from lib.infers.auto_label import ALL, AutoLabel
from lib.infers.prefetch import Prefetcher
from lib.infers.sam_2d import Sam2D
from lib.infers.sam_3d import Sam3D
from lib.infers.sam_task import SamTask
from lib.sam.engine import Engine, chosen_device
from lib.sam.models.checkpoints import CheckpointError, CheckpointStore
from lib.sam.models.model_specs import VOLUME_SUFFIX
from lib.sam.models.registry import DEFAULT_MODEL, ModelSpec, UnknownModelError, get_spec
from lib.sam.runtimes.remote import Workers
from lib.sam.sam2_predictor import predictor_class
from lib.server.app import create_app
from lib.server.http.connections import limit_connections, raise_file_limit
from lib.server.http.root_port import listen_also_on
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
from lib.trainers.teach import TeachTask
from lib.transforms.load import LoadMedicalImage
from lib.transforms.request import SegmentRequest
from lib.version import VERSION
from lib.workers.ray_workers import WorkersStartError, workers_at

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
        start_workers(1)  # the others when the model is loaded: their imports take turns with it
        self._model_dir = Path(app_dir) / "model"
        try:
            self.options = ServerOptions.from_conf(conf, Path(app_dir))
            check_upstream(any_version=self.options.upstream == "unchecked")
            specs = _chosen_models(self.options.models, self.options.known_models, self._model_dir)
        except (OptionError, UpstreamError, UnknownModelError, CheckpointError) as error:
            raise _refusal(error) from None
        budget.total = int(self.options.memory_mb * 2**20)
        self.images = ImageCache()
        budget.add_evictor(self.images.evict_oldest)
        limits = self.options.limits
        self._read = LoadMedicalImage(limits, self.images)
        self._read_uncached = LoadMedicalImage(limits)
        self.engine = Engine(
            specs,
            self._model_dir,
            device=self.options.device,
            precision=self.options.precision,
            compiled=self.options.compile,
            embedding_files=self.options.embedding_files(),
            workers=self._start_workers(specs),
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

    def _start_workers(self, specs: Sequence[ModelSpec]) -> Workers | None:
        """Start the processes that encode images; None if this process does so itself."""
        options = self.options
        if options.workers is None:
            return None
        if chosen_device(options.device).type != "cpu":
            raise _refusal("workers encode on CPUs, and this server would on a GPU: start with --conf device cpu, too")
        try:
            return workers_at(
                options.workers,
                specs,
                self._model_dir,
                precision=options.precision,
                cores=options.worker_cores,
            )
        except WorkersStartError as error:
            raise _refusal(error) from None

    def init_infers(self) -> dict[str, InferTask]:
        """Return the tasks of every chosen model."""
        tasks: dict[str, InferTask] = {}
        for name in self.engine.specs:
            shared = (name, self.engine, self.options.limits, self.images)
            tasks |= {name: Sam2D(*shared, ahead=self.ahead), name + VOLUME_SUFFIX: Sam3D(*shared)}
        logger.info("SAM models: %s", ", ".join(tasks))
        return tasks | self._learned_tasks()

    def _learned_tasks(self) -> dict[str, InferTask]:
        """Return the tasks of the labels that are found without prompts, as served now, and that of all together."""
        learned = self.engine.automatic()
        chosen = {name: [version] for name, version in learned.items()}
        if len(learned) > 1:
            chosen[ALL] = list(learned.values())
        shared = self.engine, self.options.limits, self.images
        return {name: AutoLabel(name, versions, *shared) for name, versions in chosen.items()}

    def require_model(self, model: str) -> None:
        """Check that there is a task with this name; a label's may have been learned a moment ago.

        Raises:
            UnknownModelError: If there is none; the message lists the tasks.
        """
        known = self._infers.get(model)
        if known is None or not known.is_valid():
            self._follow_learning()
        if model not in self._infers:
            raise UnknownModelError(f"there is no model {model!r}; the models are: {', '.join(self._infers)}")

    def _follow_learning(self) -> None:
        """Offer the labels that are found without prompts as served now, and no others."""
        fixed = {name: task for name, task in self._infers.items() if not isinstance(task, AutoLabel)}
        self._infers: dict[str, InferTask] = fixed | self._learned_tasks()

    def init_trainers(self) -> dict[str, TrainTask]:
        """Return a task for each model that can be taught from accepted labels."""
        taught = {name: spec for name, spec in self.engine.specs.items() if not predictor_class(spec).remembers}
        return {name: TeachTask(spec, self.engine, self.options.study_pattern) for name, spec in taught.items()}

    def init_datastore(self) -> Datastore:
        """Return our datastore for a folder, or one for a server."""
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        try:
            return open_folder(Path(self.studies), self.options.datastore, self._read, self._read_uncached)
        except StudiesError as error:
            raise _refusal(error) from None
        except FolderInUseError as error:
            raise _refusal(f"{error}; give each its own studies, as one would lose the other's labels") from None

    def init_remote_datastore(self) -> Datastore:
        """Return our datastore for a DICOMweb server, or MONAI Label's own for its other kinds of servers."""
        if settings.MONAI_LABEL_DATASTORE.lower() in ("xnat", "dsa"):
            return super().init_remote_datastore()
        try:
            store = open_dicomweb(self.studies, exclusive=True)
        except AddressError as error:
            raise _refusal(error) from None
        except FolderInUseError as error:
            raise _refusal(f"{error}; give each its own with MONAI_LABEL_DICOMWEB_CACHE_PATH=FOLDER") from None
        warn_if_unreachable(self.studies)
        return store

    def segment(self, request: SegmentRequest, datastore: Datastore | None = None) -> dict[str, Any]:
        """Run a request's task, which reads a DICOMweb server's series as DICOM; stores the result if requested."""
        self.require_model(request.model)
        store = for_inference(datastore or self.datastore())
        return infer_and_save(lambda asked: self.infer(asked.as_monai(), store), request, store)

    def info(self) -> dict[str, Any]:
        """Return what clients request when they connect; from then on a DICOMweb server's series are read anew."""
        self._follow_learning()
        store = self.datastore()
        if isinstance(store, DicomWebStore):
            store.folders.expire_all()
        return super().info()

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the next image to label, one that can be opened, and prepare it for the first click."""
        sample: dict[str, Any] = super().next_sample(request)
        folder = self.datastore()
        while sample and isinstance(folder, FolderDatastore) and not folder.opens(sample["id"]):
            sample = super().next_sample(request)
        if sample:
            store = for_inference(folder)
            self.prepare(lambda: str(store.get_image_uri(sample["id"])), str(request.get("client_id") or ""))
        return sample

    def prepare(self, find: Callable[[], str], user: str = "") -> None:
        """Read an image that is about to be displayed, and encode it from its middle on, in the background.

        Args:
            find: Returns its path: a file, or a folder of DICOM files.
            user: Who is about to see it, if known.
        """
        model = self.engine.default_model
        task: SamTask = self._infers[model]
        self.ahead.opened(model, user, lambda: task.read(find()))

    def init_strategies(self) -> dict[str, Strategy]:
        """Return the strategies that choose the next image to label."""
        return {"first": First(), "random": RandomSample(), "uncertainty": Uncertainty()}

    def _load_sessions(self, load: bool = False) -> SessionStore | None:
        """Return our store of sessions, if sessions are to be loaded."""
        path, expiry = settings.MONAI_LABEL_SESSION_PATH, settings.MONAI_LABEL_SESSION_EXPIRY
        return SessionStore(path, expiry, self.images.forget_gone) if load else None

    def on_init_complete(self) -> None:
        """Serve with our own app from now on; called just before the first request.

        Upstream's own method would start a cleaning thread that any error ends, and score labels, which is not used
        here.
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
        if self.options.itksnap_port:
            listen_also_on(self.options.itksnap_port)

    def _clean(self) -> None:
        """Remove expired sessions, and forget images that were deleted from the studies."""
        self.cleanup_sessions()
        self.images.forget_gone()


def _chosen_models(names: Sequence[str], known: Mapping[str, ModelSpec], model_dir: Path) -> list[ModelSpec]:
    """Return the models of ``--conf models``; if it names none, the bundled one and all whose checkpoint exists.

    Raises:
        UnknownModelError: For an unknown name.
        CheckpointError: For a model whose checkpoint is missing or wrong.
    """
    store = CheckpointStore(model_dir)
    if not names:
        present = [name for name, spec in known.items() if store.path(spec).is_file()]
        names = [DEFAULT_MODEL, *(name for name in present if name != DEFAULT_MODEL)]
    specs = [get_spec(name, known) for name in names]
    for spec in specs:
        store.verified(spec)
    return specs


def _use_scratch_folder() -> None:
    """Create the folder for temporary files, before anything makes one."""
    try:
        remove_log_configuration()
        use_scratch_folder()
    except OSError as error:
        reason = f"no folder for temporary files can be made in {tempfile.gettempdir()}: {error.strerror}"
        raise _refusal(f"{reason}; choose another place by the environment's variable TMPDIR") from None
    track_temporary_files()


def _refusal(reason: object) -> SystemExit:
    """Return an error that ends the server and prints only the reason, without a traceback."""
    sys.tracebacklimit = 0
    return SystemExit(f"Cannot start: {reason}")
