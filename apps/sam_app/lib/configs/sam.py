"""The tasks of one SAM model."""

from __future__ import annotations

from typing import Any

from monailabel.interfaces.config import TaskConfig

from lib.infers.sam_2d import Sam2D
from lib.sam.engine import Engine
from lib.transforms.limits import Limits


class SamConfig(TaskConfig):
    """Configuration of one model; ``init`` takes ``engine`` and ``limits`` besides what MONAI Label gives."""

    def init(self, name: str, model_dir: str, conf: dict[str, str], planner: Any, **kwargs: Any) -> None:
        """Keep what MONAI Label gives and, from ``kwargs``, the app's ``engine`` and ``limits``."""
        super().init(name, model_dir, conf, planner, **kwargs)
        self._engine: Engine = kwargs["engine"]
        self._limits: Limits = kwargs["limits"]

    def infer(self) -> dict[str, Sam2D]:
        """The model's inference tasks by the name that users see."""
        return {self.name: Sam2D(self.name, self._engine, self._limits)}

    def trainer(self) -> None:
        """SAM models are not trained here."""
        return None
