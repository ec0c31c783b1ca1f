"""Measures a model on images with known masks; see --help."""

from __future__ import annotations

import sys

from evaluation.main import main

if __name__ == "__main__":
    sys.exit(main())
