"""Runs the benchmark; see ``scripts/bench --help``."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "apps" / "sam_app")]

if __name__ == "__main__":
    from bench.runner import main

    sys.exit(main())
