"""What the pages of ``docs/`` say of the code, compared with it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TROUBLESHOOTING = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = [text for _, text in re.findall(r"^> (`+) ?(.+?) ?\1$", TROUBLESHOOTING, re.MULTILINE)]

_HOLES = re.compile(r"\$\{[^{}]*\}|\$\w+|\$\([^()]*\)|%[sdr]|%\.\d+f")


def python_texts(path: Path) -> Iterator[str]:
    """Every text of a file but docstrings, with … for what is filled in."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


@cache
def texts() -> str:
    """All texts of the code, a line each, with … for what is filled in."""
    folders = ("apps/sam_app", "clients/python/src", "scripts")
    python = [text for folder in folders for path in (ROOT / folder).rglob("*.py") for text in python_texts(path)]
    server = ROOT / "apps" / "sam_app" / "lib" / "server"
    others = [path.read_text(encoding="utf-8") for kind in ("*.js", "*.html") for path in server.rglob(kind)]
    others.append((ROOT / "scripts" / "setup").read_text(encoding="utf-8"))
    return "\n".join(_HOLES.sub("…", re.sub(r"\s+", " ", text)) for text in (*python, *others))


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_one_of_the_code(message):
    assert message in texts()


def test_a_message_that_the_code_does_not_have_is_found():
    assert len(MESSAGES) == len(set(MESSAGES)) > 60
    assert "there is no model …; the models are: …" in texts()
    assert "there is no model …; the names are: …" not in texts()
