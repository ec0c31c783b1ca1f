"""Measures a model on images with known masks; see --help."""

from __future__ import annotations

import sys


def run() -> int:
    """Run the command line; Ctrl-C ends it, also while it is being imported."""
    try:
        from evaluation.main import main

        return main()
    except KeyboardInterrupt:
        print("\nscripts/evaluate: interrupted; nothing was written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())
