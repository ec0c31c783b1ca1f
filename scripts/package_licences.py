"""What is known of Python packages, installed or as wheels: names, versions, licences. Standard library alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageMetadata, distributions
from pathlib import Path

NVIDIA = "LicenseRef-NVIDIA-Proprietary"

_SPELLINGS = {
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": NVIDIA,
    "Python Software Foundation License": "PSF-2.0",
}
"""How metadata spell licences, to SPDX identifiers. "BSD" alone is several licences."""

_READ = {
    "antlr4-python3-runtime": "BSD-3-Clause",
    "cuda-toolkit": NVIDIA,
    "iopath": "MIT",
    "jinja2": "BSD-3-Clause",
    "mpmath": "BSD-3-Clause",
    "omegaconf": "BSD-3-Clause",
    "passlib": "BSD-3-Clause",
    "pyasn1-modules": "BSD-2-Clause",
    "scikit-image": "BSD-3-Clause",
    "scipy": "BSD-3-Clause",
    "segment-anything": "Apache-2.0",
    "simpleitk": "Apache-2.0",
    "sympy": "BSD-3-Clause",
    "torchvision": "BSD-3-Clause",
}
"""Licences of packages whose metadata do not name one exactly, read in their licence files or their sources."""

_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*-[0-9A-Za-z.]+|MIT|ISC|Zlib|0BSD|Unlicense")
_EXPRESSION = re.compile(r"[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*")

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Package:
    """One package.

    Args:
        name: Its normalised name.
        version: Its version, with the build, e.g. ``2.15.0+cpu``.
        licence: An SPDX expression, or :data:`UNKNOWN`.
        homepage: Where it comes from, or an empty string.
        requires: Normalised names of the packages it requires, without extras.
        file: The wheel, or the folder that it is installed in.
    """

    name: str
    version: str
    licence: str
    homepage: str
    requires: tuple[str, ...]
    file: Path


def normalised(name: str) -> str:
    """A package's name as indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def packages(folders: Iterable[Path]) -> list[Package]:
    """The packages in folders of wheels or of installed packages (``site-packages``), by name; each once.

    Raises:
        ValueError: If a folder holds none.
    """
    found: dict[tuple[str, str], Package] = {}
    for folder in folders:
        places = sorted(folder.glob("*.whl")) or [folder]
        for place in places:
            for distribution in distributions(path=[str(place)]):
                package = _package(distribution, place)
                found.setdefault((package.name, package.version), package)
        if not any(package.file in places for package in found.values()):
            raise ValueError(f"{folder} holds neither wheels nor installed packages")
    return [found[key] for key in sorted(found)]


def locked(lock: Path) -> dict[str, list[str]]:
    """Normalised names of what a lock has for Linux, and their versions: several if Pythons differ in them."""
    versions: dict[str, list[str]] = {}
    for name, version, marker in re.findall(r"^([A-Za-z0-9][\w.-]*)==(\S+)(.*)", lock.read_text(), re.MULTILINE):
        if "== 'win32'" not in marker:
            versions.setdefault(normalised(name), []).append(version)
    return versions


def _package(distribution: Distribution, place: Path) -> Package:
    metadata = distribution.metadata
    required = (requirement for requirement in distribution.requires or [] if "extra ==" not in requirement)
    names = (match[0] for requirement in required if (match := re.match(r"[\w.-]+", requirement)))
    return Package(
        name=normalised(metadata["Name"]),
        version=metadata["Version"],
        licence=_licence(metadata),
        homepage=_homepage(metadata),
        requires=tuple(sorted({normalised(name) for name in names})),
        file=place,
    )


def _licence(metadata: PackageMetadata) -> str:
    name = normalised(metadata["Name"])
    if name in _READ:
        return _READ[name]
    stated = [_field(metadata, "License-Expression"), _field(metadata, "License")]
    classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith("License ::")]
    for text in [*stated, *(line.rsplit(" :: ", 1)[-1] for line in classifiers)]:
        text = _SPELLINGS.get(text, text)
        if _EXPRESSION.fullmatch(text) and _SPDX.match(text):
            return text
    return UNKNOWN


def _field(metadata: PackageMetadata, name: str) -> str:
    return (metadata.get_all(name) or [""])[0].strip()


def _homepage(metadata: PackageMetadata) -> str:
    labelled = [line.split(", ", 1) for line in metadata.get_all("Project-URL") or []]
    urls = {label.lower(): url for label, url in (pair for pair in labelled if len(pair) == 2)}
    wanted = ("homepage", "home", "source", "repository", "source code", "documentation")
    return _field(metadata, "Home-page") or next((urls[label] for label in wanted if label in urls), "")
