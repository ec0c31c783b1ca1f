"""The model's module, loaded from its file, so that training needs neither the app nor its requirements."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

REPOSITORY = Path(__file__).resolve().parents[2]


def _load() -> ModuleType:
    """Return `apps/sam_app/lib/sam/models/tiny.py` as the module `sam_tiny_model`."""
    name = "sam_tiny_model"
    if name not in sys.modules:
        path = REPOSITORY / "apps" / "sam_app" / "lib" / "sam" / "models" / "tiny.py"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"cannot load {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


if TYPE_CHECKING:
    from lib.sam.models import tiny as sam_tiny
else:
    sam_tiny = _load()
