"""Wheels of the lock for other machines: found by uv, fetched and checked by their SHA-256, or built."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from lib.base.files import link_or_copy, move, sha256_of
from lib.sam.models.download import DownloadError, discard, fetch

_GLIBC = 28
"""The newest manylinux that is taken, 2_28; Debian 12, Ubuntu 24.04 and RHEL 9 are newer."""

_OF_CUDA = re.compile(r"^(nvidia-|cuda-|triton==)")
_TORCH = re.compile(r"^(torch|torchvision)==")


class WheelError(ValueError):
    """The wheels cannot be had; the message says why and what would do."""


@dataclass(frozen=True)
class Source:
    """A file that the lock stands for: a wheel, or sources to build one of.

    Args:
        package: The package's name.
        version: Its version.
        file: The file's name.
        place: A URL, or a path on this machine.
        sha256: As its index states it.
        size: Bytes, 0 if the index does not say.
    """

    package: str
    version: str
    file: str
    place: str
    sha256: str
    size: int

    @property
    def is_wheel(self) -> bool:
        """Whether it needs no build."""
        return self.file.endswith(".whl")


def tags(python: str) -> list[Tag]:
    """What a Python on Linux on x86-64 can install, the most specific first.

    Args:
        python: Its version, e.g. ``3.12``.
    """
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(_GLIBC, 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    version = tuple(map(int, python.split(".")))
    return [
        *cpython_tags(version, platforms=platforms),
        *compatible_tags(version, f"cp{python.replace('.', '')}", platforms),
    ]


def sources(lock: str, uv_version: str, python: str, torch: str) -> list[Source]:
    """Find what has to be fetched for one Python.

    Args:
        lock: The text of requirements.txt.
        uv_version: The version of uv that scripts/setup wants.
        python: The version of Python, e.g. ``3.12``.
        torch: Where PyTorch is taken from: ``lock``, ``cpu``, an index or a folder, as for scripts/setup.

    Raises:
        WheelError: If a package cannot be found, or not for this Python.
    """
    lines = [line for line in lock.splitlines() if re.match(r"[A-Za-z0-9]", line)] + [f"uv=={uv_version}"]
    if torch == "lock":
        return _found(lines, python, [])
    rest = [line for line in lines if not (_OF_CUDA.match(line) or _TORCH.match(line))]
    options = {"cpu": ["--torch-backend", "cpu"]}.get(torch, ["--default-index", torch])
    if Path(torch).is_dir():
        options = ["--no-index", "--find-links", str(Path(torch).resolve())]
    builds = _found([line for line in lines if _TORCH.match(line)], python, options)
    for build in builds:
        if not build.version.endswith("+cpu"):
            raise WheelError(f"{torch} has {build.package} {build.version}, which is no build for CPUs")
    return [*_found(rest, python, []), *builds]


def _found(lines: list[str], python: str, options: list[str]) -> list[Source]:
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--no-deps", "--no-header"]
    command += [
        "--python",
        sys.executable,
        "--python-version",
        python,
        "--python-platform",
        f"x86_64-manylinux_2_{_GLIBC}",
    ]
    done = subprocess.run(
        [*command, "--format", "pylock.toml", *options, "-"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise WheelError(f"uv does not find the packages for Python {python}: {' '.join(done.stderr.split())}")
    rank = {tag: place for place, tag in enumerate(tags(python))}
    return [_best(package, rank, python) for package in tomllib.loads(done.stdout).get("packages", [])]


def _best(package: dict[str, Any], rank: dict[Tag, int], python: str) -> Source:
    """The package's wheel that fits best, else its sources."""
    ranked = [
        (min(rank[tag] for tag in fitting), wheel)
        for wheel in package.get("wheels", [])
        if (fitting := _tags_of(_file_name(wheel)) & rank.keys())
    ]
    if ranked:
        chosen = min(ranked, key=lambda pair: pair[0])[1]
    elif "sdist" in package:
        chosen = package["sdist"]
    else:
        raise WheelError(f"{package['name']} {package['version']} is not published for Python {python} on Linux x86-64")
    return Source(
        package=package["name"],
        version=package["version"],
        file=_file_name(chosen),
        place=chosen.get("url") or chosen["path"],
        sha256=chosen["hashes"]["sha256"],
        size=chosen.get("size", 0),
    )


def _file_name(entry: dict[str, Any]) -> str:
    name = entry.get("name") or unquote(urlsplit(entry.get("url") or entry["path"]).path.rsplit("/", 1)[-1])
    return str(name)


def _tags_of(file: str) -> frozenset[Tag]:
    try:
        return parse_wheel_filename(file)[3]
    except InvalidWheelFilename:
        return frozenset()


def bring(source: Source, folder: Path, heard: Callable[[int], object]) -> Path:
    """Fetch one file into a folder, unless it is there; a fetch that was cut goes on where it was.

    Args:
        source: The file.
        folder: The folder, which exists.
        heard: Told of bytes that are there.

    Returns:
        Its path; its SHA-256 is right.

    Raises:
        WheelError: If it cannot be fetched, or is another file than the index states.
    """
    path = folder / source.file
    if path.is_file() and _is_right(path, source):
        heard(path.stat().st_size)
        return path
    part = folder / f"{source.file}.part"
    try:
        if urlsplit(source.place).scheme in ("https", "http"):
            fetch(source.place, part, progress=heard)
        else:
            part.unlink(missing_ok=True)
            link_or_copy(Path(unquote(urlsplit(source.place).path)), part)
    except (DownloadError, OSError) as error:
        raise WheelError(f"{source.file} was not fetched: {error}") from error
    right = _is_right(part, source)
    if right:
        move(part, path, durable=False)
    discard(part)
    if not right:
        raise WheelError(f"{source.file} is damaged or another file: its SHA-256 is not the one that its index states")
    return path


def _is_right(path: Path, source: Source) -> bool:
    with path.open("rb") as file:
        return sha256_of(file) == source.sha256


def build(sdist: Path, source: Source, folder: Path, moment: int) -> Path:
    """Make a wheel of sources, for any Python, with the build tools and the PyTorch that are installed here.

    Args:
        sdist: The sources.
        source: What they are.
        folder: Where the wheel goes.
        moment: The time in its files, in seconds.

    Raises:
        WheelError: If that fails, or gives a wheel for this Python alone.
    """
    name = re.sub(r"[-_.]+", "_", source.package)
    wheel = folder / f"{name}-{source.version}-py3-none-any.whl"
    if wheel.is_file() and wheel.stat().st_mtime >= sdist.stat().st_mtime:
        return wheel
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-cache-dir"]
    done = subprocess.run(
        [*command, "--use-pep517", "--no-build-isolation", "--wheel-dir", str(folder), str(sdist)],
        env={**os.environ, "SAM2_BUILD_CUDA": "0", "SOURCE_DATE_EPOCH": str(moment)},
        capture_output=True,
        text=True,
        check=False,
    )
    if not wheel.is_file():
        reason = done.stderr.strip().splitlines()[-1:] or ["it is none for every Python"]
        raise WheelError(f"no wheel could be made of {source.file}: {reason[0]}")
    return wheel


def remove_others(folder: Path, wanted: list[Path]) -> None:
    """Remove the files of earlier locks from a folder of wheels; what is half fetched stays."""
    for path in _files(folder):
        if path not in wanted and not path.name.endswith((".part", ".etag")):
            with suppress(OSError):
                path.unlink()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file())
