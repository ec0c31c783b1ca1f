"""What the Dockerfile does to an image's packages and app: leaves out what no server uses, and prepares the rest."""

from __future__ import annotations

import argparse
import compileall
import os
import py_compile
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
APP_FOLDER = ROOT / "apps" / "sam_app"
BUNDLED = ROOT / "bundled"
SBOM = ROOT / "sbom.cdx.json"
DATA = Path("/data")
PLACES = {"model": "model", "results": "results", "embeddings": "embeddings", "datastore": "labels", "logs": "audit"}
"""Folders of the app, and the folders of ``/data`` in which their content is in an image."""


class LeftOutOfImage(NamedTuple):
    """Something that ``scripts/setup`` installs and an image does without.

    Args:
        what: A package's name, or a pattern of paths in ``site-packages`` if there is a ``/`` in it.
        reason: Why, and what is lost.
        targets: Of which images.
    """

    what: str
    reason: str
    targets: tuple[str, ...] = ("cpu", "cuda")


LEFT_OUT_OF_IMAGE = (
    LeftOutOfImage("uv", "installs packages; nothing is installed into a finished image"),
    LeftOutOfImage("pip", "likewise"),
    LeftOutOfImage("triton", "compiles for GPUs; comes only with PyTorch's build for CUDA", targets=("cpu",)),
    LeftOutOfImage("torch/include/", "headers for extensions in C++; `torch.utils.cpp_extension` is lost"),
    LeftOutOfImage("torch/bin/protoc*", "a compiler of protocol buffers"),
    LeftOutOfImage("torch/bin/test_*", "PyTorch's own tests"),
    LeftOutOfImage("nvidia/*/include/", "headers of CUDA"),
    LeftOutOfImage("**/*.a", "static libraries, for linking"),
    LeftOutOfImage("**/tests/", "packages' own tests"),
    LeftOutOfImage("../../../monailabel/", "MONAI Label's sample apps, and the sources of its plugins"),
)


def slim(target: str, site_packages: Path) -> None:
    """Remove what an image of this target does without, and print what that saved."""
    total = 0
    for left_out in LEFT_OUT_OF_IMAGE:
        if target in left_out.targets:
            paths = list(_paths_of(left_out.what, site_packages))
            removed = sum(_remove(path) for path in paths)
            total += removed
            print(f"  {removed / 1e6:8.1f} MB  {left_out.what}: {left_out.reason}")
    print(f"  {total / 1e6:8.1f} MB  left out of the image")


def _paths_of(what: str, site_packages: Path) -> Iterable[Path]:
    if "/" in what:
        return sorted(site_packages.glob(what.rstrip("/")))
    installed = next(iter(distributions(name=what, path=[str(site_packages)])), None)
    if installed is None:
        return ()
    return [Path(os.path.normpath(str(installed.locate_file(file)))) for file in installed.files or ()]


def _remove(path: Path) -> int:
    """Remove a file or folder, with folders that become empty by it; return how many bytes it took."""
    if not path.exists():  # within a folder that is removed already
        return 0
    size = sum(file.lstat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if not file.is_dir())
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
        for cached in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            size += cached.stat().st_size
            cached.unlink()
    for folder in (path.parent / "__pycache__", *path.parents):
        if folder.is_dir():
            if any(folder.iterdir()):
                break
            folder.rmdir()
    return size


def finish() -> None:
    """Convert the bundled model, compile all modules, list what is there, and lay out the app's folders.

    Raises:
        SystemExit: If the bundled model does not run on OpenVINO.
    """
    _convert_bundled_model()
    for folder in (Path(sysconfig.get_path("purelib")), APP_FOLDER, ROOT / "scripts"):
        compileall.compile_dir(
            folder, quiet=2, force=True, workers=0, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )
    subprocess.run(
        [sys.executable, ROOT / "scripts" / "sbom.py", sysconfig.get_path("purelib"), "--output", SBOM], check=True
    )
    _lay_out()
    for path in _all_paths(ROOT):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            right = 0o755 if path.is_dir() or mode & 0o100 else 0o644
            if mode != right:  # a change of nothing would put the file into another layer
                path.chmod(right)


def _convert_bundled_model() -> None:
    from lib.sam.engine import Engine
    from lib.sam.models.registry import DEFAULT_MODEL, get_spec

    engine = Engine([get_spec(DEFAULT_MODEL)], APP_FOLDER / "model", device="cpu")
    engine.predictor(DEFAULT_MODEL)
    print(f"{DEFAULT_MODEL} runs on {engine.runtime_of(DEFAULT_MODEL)}")
    if not any((APP_FOLDER / "model" / "openvino").glob(f"{DEFAULT_MODEL}-*/manifest.json")):
        raise SystemExit(f"{DEFAULT_MODEL} could not be converted for OpenVINO: see above")


def _lay_out() -> None:
    """Put what is kept into ``/data`` by links, and the models that come with the image where they stay read-only."""
    model = APP_FOLDER / "model"
    (model / "checksums.json").unlink(missing_ok=True)
    shutil.move(model, BUNDLED)
    for name, place in PLACES.items():
        (APP_FOLDER / name).symlink_to(DATA / place)
    (APP_FOLDER / "bin").mkdir(exist_ok=True)


def _all_paths(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.rglob("*")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    slim(arguments.target, Path(sysconfig.get_path("purelib")))
    sys.path.insert(0, str(APP_FOLDER))
    finish()


if __name__ == "__main__":
    main()
