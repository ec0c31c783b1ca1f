"""The reference of the commands: a page of Markdown, made of what each says of itself with ``--help``."""

from __future__ import annotations

import io
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]

CHAPTERS = {
    "Serve": ("start", "setup", "weights", "pacs"),
    "Run it for others": ("keys", "audit", "precompute", "quantize"),
    "Learn and measure": ("train_labels", "models", "evaluate", "bench"),
    "Pass it on": ("bundle", "image", "sbom"),
    "Change it": ("test", "docs", "lock", "licences", "train_tiny", "train_follower"),
}
"""All commands of ``scripts/`` for people, in the order of the page."""

_INTRODUCTION = """# Commands

What each command of `scripts/` says with `--help`. A command can be called from any folder, and sets up what it needs
the first time. In [a container](docker.md), for those that the image has, `scripts/NAME` is the first argument.
"""

_WIDTH = "84"
_RUNS = re.compile(r"\brun\w* ((?:scripts|benchmarks)/\w+\.py) ")
_SUBCOMMANDS = re.compile(r"\{([\w,]+)\} \.\.\.")


def page() -> str:
    """Return the page in Markdown."""
    lines = _INTRODUCTION.splitlines()
    for chapter, names in CHAPTERS.items():
        lines += ["", f"## {chapter}"]
        for name in names:
            lines += _section(name)
    return "\n".join(lines) + "\n"


def _section(name: str, *subcommand: str) -> Iterator[str]:
    text = help_of(name, *subcommand)
    yield from ("", f"### {' '.join((f'scripts/{name}', *subcommand))}", "", "```text", text.strip(), "```")
    if not subcommand and (found := _SUBCOMMANDS.search(text)):
        for one in found[1].split(","):
            yield from _section(name, one)


def help_of(name: str, *subcommand: str) -> str:
    """Return what a command, or a command of it, prints with ``--help``."""
    command = ROOT / "scripts" / name
    runs = _RUNS.search(command.read_text())
    if not runs:  # a shell script that does the work itself
        return subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout
    file = ROOT / runs[1]
    printed = io.StringIO()
    with (
        patch.object(sys, "argv", [str(file), *subcommand, "--help"]),
        patch.object(sys, "path", [str(file.parent), *sys.path]),
        patch.dict(os.environ, COLUMNS=_WIDTH),
        redirect_stdout(printed),
    ):
        try:
            runpy.run_path(str(file), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"{file} {' '.join(subcommand)} --help ended with {end.code}") from None
    return printed.getvalue()
