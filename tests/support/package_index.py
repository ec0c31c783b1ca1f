"""A package index on this machine, with small packages that stand for large ones."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class PackageIndex:
    """An index of the files in a folder, as PEP 503 has it.

    Args:
        folder: It has a folder ``files`` with wheels and sources.
        url: Its address.
        asked: The files that were asked for, in their order.
    """

    def __init__(self, folder: Path, url: str, asked: list[str]) -> None:
        self.files = folder / "files"
        self.url = f"{url}/simple/"
        self.asked = asked
        self._pages = folder / "simple"

    def write(self, **sums: str) -> None:
        """Write the index's pages; a file's SHA-256 may be stated otherwise than it is, by the package's name."""
        for file in sorted(self.files.iterdir()):
            name = file.name.split("-")[0]
            page = self._pages / name.replace("_", "-").lower() / "index.html"
            page.parent.mkdir(parents=True, exist_ok=True)
            digest = sums.get(name, hashlib.sha256(file.read_bytes()).hexdigest())
            line = f'<a href="../../files/{file.name.replace("+", "%2B")}#sha256={digest}">{file.name}</a>\n'
            page.write_text((page.read_text() if page.exists() else "<!DOCTYPE html>\n") + line)


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, asked: list[str], *arguments: object, **options: object) -> None:
        self._asked = asked
        super().__init__(*arguments, **options)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if self.path.startswith("/files/"):
            self._asked.append(self.path.removeprefix("/files/"))
        super().do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def running_index(folder: Path) -> Iterator[PackageIndex]:
    """Serve an index of ``folder/files`` within the ``with`` block."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, asked, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield PackageIndex(folder, f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        server.server_close()
