"""Small wheels, to stand for large ones."""

from __future__ import annotations

import zipfile
from pathlib import Path


def write_wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    tag: str = "py3-none-any",
    metadata: str = "",
    files: dict[str, str] | None = None,
    **scripts: str,
) -> Path:
    """Write a wheel, and its folder if need be.

    Args:
        folder: Where to.
        name: The package's name, as file names have it.
        version: Its version.
        tag: For which Pythons it is.
        metadata: Further lines of its METADATA.
        files: Files of the package, by path.
        **scripts: Scripts for ``bin``, by name.
    """
    info = f"{name}-{version}.dist-info"
    content = {f"{name}-{version}.data/scripts/{script}": text for script, text in scripts.items()} | (files or {})
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}"
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"
    content[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in (*content, f"{info}/RECORD"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in content.items():
            entry = zipfile.ZipInfo(file)
            entry.external_attr = 0o100755 << 16
            wheel.writestr(entry, text)
    return path
