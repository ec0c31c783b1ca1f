"""MONAI Label task configuration of one SAM model."""

from __future__ import annotations

from typing import Any

from monailabel.interfaces.config import TaskConfig

from lib.imaging.image_cache import ImageCache
from lib.imaging.limits import Limits
from lib.infers.prefetch import Prefetcher
from lib.infers.sam_2d import Sam2D
from lib.infers.sam_3d import SUFFIX, Sam3D
from lib.infers.sam_task import SamTask
from lib.sam.engine import Engine


class SamConfig(TaskConfig):
    """Configuration of one model; ``init`` also takes the app's ``engine``, ``limits``, ``images`` and ``ahead``."""

    def init(self, name: str, model_dir: str, conf: dict[str, str], planner: Any, **kwargs: Any) -> None:
        """Store MONAI Label's arguments and, from ``kwargs``, the objects that the app's tasks share."""
        super().init(name, model_dir, conf, planner, **kwargs)
        self._engine: Engine = kwargs["engine"]
        self._limits: Limits = kwargs["limits"]
        self._images: ImageCache | None = kwargs.get("images")
        self._prefetcher: Prefetcher | None = kwargs.get("ahead")

    def infer(self) -> dict[str, SamTask]:
        """Return the model's inference tasks by the name that users see: on a slice, and through a volume."""
        shared = (self._engine, self._limits, self._images)
        return {self.name: Sam2D(self.name, *shared, self._prefetcher), self.name + SUFFIX: Sam3D(self.name, *shared)}

    def trainer(self) -> None:
        """Return None: SAM models are not trained here."""
        return None
