"""Measures a model on images with known masks; see --help."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "apps" / "sam_app")]

from evaluation.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
