"""Runs the benchmark; see ``scripts/bench --help``."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from bench.runner import main

    sys.exit(main())
