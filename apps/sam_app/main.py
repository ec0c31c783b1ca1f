"""The MONAI Label app: interactive segmentation with SAM. Start it with ``monailabel start_server --app``."""

from __future__ import annotations

import logging
from pathlib import Path

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from lib.configs.sam import SamConfig
from lib.sam.checkpoints import CheckpointError, CheckpointStore
from lib.sam.engine import Engine
from lib.sam.registry import DEFAULT_MODEL, MODELS, ModelSpec, UnknownModelError, get_spec
from lib.server.mount import mount
from lib.version import VERSION

logger = logging.getLogger(__name__)

DEFAULT_LABELS = "region,lesion,liver,spleen,kidney,pancreas,heart,lung,aorta,bone"


class SamApp(MONAILabelApp):
    """SAM models as MONAI Label inference tasks, and the REST routes on the same server.

    Args:
        app_dir: This file's folder.
        studies: A folder of images, or the URL of a DICOMweb server.
        conf: Options from ``--conf KEY VALUE``: ``models`` (comma-separated names, the default one first; without
            it ``sam_tiny`` and every model whose checkpoint is in ``model/``), ``labels`` (comma-separated names for
            the viewers), ``device``, ``max_pixels``, and those of :mod:`lib.server.options`.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self._model_dir = Path(app_dir) / "model"
        self.engine = Engine(_chosen_models(conf, self._model_dir), self._model_dir, device=conf.get("device"))
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name=f"SAM {VERSION}",
            description="Interactive segmentation with the Segment Anything Model",
            version=VERSION,
            labels=[name.strip() for name in conf.get("labels", DEFAULT_LABELS).split(",") if name.strip()],
        )

    def init_infers(self) -> dict[str, InferTask]:
        """The tasks of every chosen model."""
        tasks: dict[str, InferTask] = {}
        for name in self.engine.specs:
            config = SamConfig()
            config.init(name, str(self._model_dir), self.conf, None, engine=self.engine)
            tasks.update(config.infer())
        logger.info("SAM models: %s", ", ".join(tasks))
        return tasks

    def init_strategies(self) -> dict[str, Strategy]:
        """Which image to label next."""
        return {"first": First(), "random": Random()}

    def on_init_complete(self) -> None:
        """The server is about to answer: add the routes to it and mend what needs mending."""
        super().on_init_complete()
        mount(self)


def _chosen_models(conf: dict[str, str], model_dir: Path) -> list[ModelSpec]:
    """The models of ``--conf models``, else the bundled one and those whose checkpoint is there.

    Raises:
        SystemExit: For a name that is not known or a model without its checkpoint; the message says what to do.
    """
    store = CheckpointStore(model_dir)
    names = [name.strip() for name in conf.get("models", "").split(",") if name.strip()]
    if not names:
        present = [name for name, spec in MODELS.items() if store.path(spec).is_file()]
        names = [DEFAULT_MODEL, *(name for name in present if name != DEFAULT_MODEL)]
    try:
        specs = [get_spec(name) for name in names]
        for spec in specs:
            store.verified(spec)
    except (UnknownModelError, CheckpointError) as error:
        raise SystemExit(f"Cannot start: {error}") from None
    return specs
