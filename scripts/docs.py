"""Builds the documentation as a site of static files whose links hold, and which loads nothing from elsewhere."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = "docs/zensical.toml"

_LINK = re.compile(r"\]\(([^)#\s]+)|^\[[^\]]+\]: ([^#\s]+)", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOADED_BY_CSS = re.compile(r"""(?:url\(|@import\s)\s*["']?(?!data:)((?:https?:)?//[^"')\s]+)""")
_LOADING = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class DocsError(Exception):
    """The site cannot be built; the message says why."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/docs",
        description="Builds the documentation as a site of static files, with the references of the REST routes, of "
        "the Python client and of the commands. It opens no connection, and neither does the site: open its "
        "index.html. Ends with 1 if a link, an anchor or a picture is missing.",
        epilog="Opened as files the pages have no search; python3 -m http.server --directory site serves them with it.",
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        type=Path,
        nargs="?",
        default=ROOT / "site",
        help="where to put it, in place of a site that is there (default: site)",
    )
    return parser


def build(folder: Path) -> None:
    """Build the site.

    Args:
        folder: Where to put it; a site that is there is replaced.

    Raises:
        DocsError: If the folder holds something else, or a page, link, anchor or picture is missing.
    """
    is_site = (folder / "objects.inv").is_file()
    if folder.exists() and not is_site and (folder.is_file() or any(folder.iterdir())):
        raise DocsError(f"{folder} holds something else than a site: remove it, or name another folder")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        _stage(work)
        _run_zensical(work)
        site = work / "site"
        (site / "404.html").unlink()  # its links are those of a site at the root of a host
        if found := faults(site):
            raise DocsError("\n".join(["the site has faults:", *found]))
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(site, folder)


def pages() -> list[str]:
    """Return the site's pages, in the order of its navigation, as paths in the repository."""
    with (ROOT / CONFIGURATION).open("rb") as file:
        return list(_paths(tomllib.load(file)["project"]["nav"]))


def faults(site: Path) -> list[str]:
    """Return what is wrong with a built site, a line each: what leads nowhere, and what is loaded from elsewhere."""
    parsed = {path: _Page(path) for path in site.rglob("*.html")}
    found = [line for page in parsed.values() for line in page.faults(site, parsed)]
    for path in site.rglob("*.css"):
        found += [
            f"{path.relative_to(site)} loads {address}"
            for address in _LOADED_BY_CSS.findall(path.read_text(encoding="utf-8"))
        ]
    return sorted(found)


class _Page(HTMLParser):
    """A page's anchors, and what it links and loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors.update(value for key in ("id", "name") if (value := values.get(key)))
        if tag == "a" and (href := values.get("href")):
            self.links.append(href)
        if address := values.get(_LOADING.get(tag, "")):
            self.loads.append(address)

    def faults(self, site: Path, others: dict[Path, _Page]) -> Iterator[str]:
        name = self.path.relative_to(site)
        for address in self.loads:
            parts = urlsplit(address)
            if parts.netloc:
                yield f"{name} loads {address}"
            elif parts.scheme != "data" and not self._target(address).is_file():
                yield f"{name} shows {address}, which is not there"
        for address in self.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = self._target(address)
            if not target.is_file():
                yield f"{name} links {address}, which is not there"
            elif parts.fragment and target in others and unquote(parts.fragment) not in others[target].anchors:
                yield f"{name} links {address}, an anchor that is not there"

    def _target(self, address: str) -> Path:
        path = unquote(urlsplit(address).path)
        return Path(os.path.normpath(self.path.parent / path)) if path else self.path


def _paths(nav: list[dict[str, Any]]) -> Iterator[str]:
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else _paths(value)


def _generated() -> dict[str, Callable[[], str]]:
    """The pages that are made here, and what makes them."""
    import client_reference  # here, as --help needs none of their packages
    import command_reference
    import rest_reference

    return {
        "docs/rest_reference.md": lambda: rest_reference.page(rest_reference.openapi()),
        "docs/python_reference.md": client_reference.page,
        "docs/commands.md": command_reference.page,
    }


def _stage(work: Path) -> None:
    """Copy the configuration, the pages and the files to which they lead; make the pages that are generated."""
    generated = _generated()
    shutil.copy(ROOT / CONFIGURATION, work)
    listed = pages()
    unlisted = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - set(listed)
    if unlisted:
        raise DocsError(f"{CONFIGURATION} lacks {', '.join(sorted(unlisted))} in its nav")
    for name in listed:
        copy = work / "pages" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if name in generated:
            copy.write_text(generated[name](), encoding="utf-8")
            continue
        if not (ROOT / name).is_file():
            raise DocsError(f"{CONFIGURATION} lists {name}, which is not there")
        shutil.copy(ROOT / name, copy)
        for groups in _LINK.findall(copy.read_text(encoding="utf-8")):
            linked = os.path.normpath(Path(name).parent / "".join(groups))
            if (ROOT / linked).is_file() and not linked.endswith(".md"):
                (work / "pages" / linked).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / linked, work / "pages" / linked)


def _run_zensical(work: Path) -> None:
    places = [ROOT / "clients" / "python" / "src", ROOT / "scripts", *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(work / Path(CONFIGURATION).name)],
        cwd=work,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DocsError(_COLOUR.sub("", done.stdout).partition("Traceback (most recent call last)")[0].strip())


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    folder = make_parser().parse_args(argv).folder
    try:
        build(folder)
    except DocsError as error:
        print(f"scripts/docs: {error}", file=sys.stderr)
        return 1
    print(f"{folder / 'index.html'}: {len(pages())} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
