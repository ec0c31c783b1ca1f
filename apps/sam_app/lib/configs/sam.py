"""The tasks of one SAM model."""

from __future__ import annotations

from typing import Any

from monailabel.interfaces.config import TaskConfig

from lib.imaging.readers import DEFAULT_MAX_PIXELS
from lib.infers.sam_2d import Sam2D
from lib.sam.engine import Engine


class SamConfig(TaskConfig):
    """Configuration of one model: ``init(name, model_dir, conf, planner, engine=...)``, then ``infer()``."""

    def init(self, name: str, model_dir: str, conf: dict[str, str], planner: Any, **kwargs: Any) -> None:
        """Keep what MONAI Label gives and, from ``kwargs``, the app's ``engine``."""
        super().init(name, model_dir, conf, planner, **kwargs)
        self._engine: Engine = kwargs["engine"]

    def infer(self) -> dict[str, Sam2D]:
        """The model's inference tasks by the name that users see."""
        max_pixels = int(self.conf.get("max_pixels", DEFAULT_MAX_PIXELS))
        return {self.name: Sam2D(self.name, self._engine, max_pixels=max_pixels)}

    def trainer(self) -> None:
        """SAM models are not trained here."""
        return None
