"""Print ``name bytes`` of what a pylock.toml (PEP 751) names, for Python 3.11 on Linux x86-64: see ``scripts/lock``."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

_FITS = re.compile(r"(cp311-(cp311|none)|cp3\d+-abi3|py3-none)-(any|.*linux.*x86_64)\.")
# The build for CPUs is on PyTorch's own index, which a lock of the general one does not name; measured once, of 2.13.0.
_CPU_TORCH = ("torch+cpu", 190_000_000)


def size(package: dict[str, Any]) -> int:
    """Bytes of the wheel that would be fetched, else of the source."""
    wheels = [wheel for wheel in package.get("wheels", []) if _FITS.search(wheel["url"].rsplit("/", 1)[-1])]
    return int(max((wheel["size"] for wheel in wheels), default=package.get("sdist", {}).get("size", 0)))


def main() -> None:
    """Print one line a package."""
    lock = tomllib.loads(Path(sys.argv[1]).read_text())
    for name, count in sorted([(package["name"], size(package)) for package in lock["packages"]] + [_CPU_TORCH]):
        print(name, count)


if __name__ == "__main__":
    main()
