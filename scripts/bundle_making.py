"""Making an offline bundle: the repository, its packages as wheels, checkpoints, checksums, a bill of materials."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

import wheels
from bundle import ROOT, SUMS, BundleError, in_megabytes, program
from lib.base.files import move
from lib.base.locks import locked
from lib.sam.models.registry import get_spec
from lib.version import VERSION
from sbom import bill_of_materials

WORK = ROOT / "bundles"
MODELS = "apps/sam_app/model"

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Member:
    """A file of the bundle.

    Args:
        name: Its path in the unpacked folder.
        content: A path on this machine, or the bytes.
        executable: Whether it is a program.
        link: Where it points to, for a symbolic link.
    """

    name: str
    content: Path | bytes
    executable: bool = False
    link: str = ""

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def open(self) -> IO[bytes]:
        """Open it for reading."""
        return io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb")


class _Summed:
    """A file that is being read: its SHA-256, and who is told of its bytes."""

    def __init__(self, file: IO[bytes], heard: Callable[[int], object]) -> None:
        self._file = file
        self._heard = heard
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self.sha256.update(block)
        self._heard(len(block))
        return block


def git(*arguments: str) -> bytes:
    """What git says of this repository.

    Raises:
        BundleError: If it says nothing.
    """
    try:
        return subprocess.run([program("git"), "-C", str(ROOT), *arguments], capture_output=True, check=True).stdout
    except subprocess.CalledProcessError as error:
        raise BundleError(f"a bundle is made of a clone of the repository: {error.stderr.decode().strip()}") from error


def repository() -> list[Member]:
    """The repository's files as they are committed."""
    members = []
    with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", "HEAD"))) as archive:
        for entry in archive:
            content = archive.extractfile(entry) if entry.isfile() else None
            if content or entry.issym():
                data = content.read() if content else b""
                members.append(Member(entry.name, data, bool(entry.mode & 0o100), entry.linkname))
    return members


def checkpoints(names: str) -> list[Member]:
    """The checked checkpoints of models.

    Raises:
        ValueError: If one is not known, not there, or damaged.
    """
    specs = [get_spec(name.strip()) for name in names.split(",") if name.strip()]
    if not specs:
        return []
    from lib.sam.models.checkpoints import CheckpointStore  # it imports PyTorch

    store = CheckpointStore(ROOT / MODELS)
    for spec in specs:
        store.verified(spec)
    return [Member(f"{MODELS}/{spec.checkpoint}", store.path(spec)) for spec in specs if not spec.bundled]


def wheels_for(pythons: list[str], torch: str, moment: int) -> list[Path]:
    """Fetch or build the wheels of the committed lock.

    Raises:
        wheels.WheelError: If one cannot be had.
    """
    setup = git("show", "HEAD:scripts/setup").decode()
    uv_version = re.findall(r"^readonly UV_VERSION=(\S+)", setup, re.MULTILINE)[0]
    lock = git("show", "HEAD:requirements.txt").decode()
    found = {source for python in pythons for source in wheels.sources(lock, uv_version, python, torch)}
    ordered = sorted(found, key=lambda source: source.file)
    folder = WORK / "wheels"
    (folder / "sources").mkdir(parents=True, exist_ok=True)
    ready: list[Path] = []
    built: list[Path] = []
    total = sum(source.size for source in ordered) or None
    with tqdm(total=total, unit="B", unit_scale=True, desc=f"{len(ordered)} packages", miniters=1) as bar:
        for source in ordered:
            path = wheels.bring(source, folder if source.is_wheel else folder / "sources", bar.update)
            (ready if source.is_wheel else built).append(path)
            if not source.is_wheel:
                ready.append(wheels.build(path, source, folder, moment))
    wheels.remove_others(folder, ready)
    wheels.remove_others(folder / "sources", built)
    return sorted(ready)


def torch_here() -> str:
    """The build of PyTorch that is installed here, as ``--torch`` takes it."""
    from importlib.metadata import version

    remembered = Path(sys.prefix) / ".torch-index"
    if not version("torch").endswith("+cpu"):
        return "lock"
    return remembered.read_text().strip() if remembered.is_file() else "cpu"


@contextmanager
def compressed(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """What is written within the ``with`` block goes into a file, compressed by zstd with a checksum.

    Raises:
        BundleError: If zstd is not there or fails.
    """
    process = subprocess.Popen([program("zstd"), "-q", "-T0", "-c", "--check"], stdin=subprocess.PIPE, stdout=file)
    assert process.stdin is not None
    try:
        yield process.stdin
        process.stdin.close()
        failed = process.wait() != 0
    except BrokenPipeError:
        failed = True
    finally:
        process.kill()
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()
    if failed:
        raise BundleError("zstd failed: see above")


def pack(members: list[Member], top: str, moment: int, output: Path) -> None:
    """Write the bundle under a temporary name, then rename it.

    Args:
        members: Its files, but for their checksums.
        top: The folder that all lie in.
        moment: The time of all files, in seconds.
        output: The bundle.

    Raises:
        BundleError: If zstd is not there or fails.
        OSError: If it cannot be written.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f"{output.name}.part")
    sums = []
    total = sum(member.size for member in members)
    try:
        with (
            part.open("wb") as file,
            compressed(file) as stream,
            tarfile.open(fileobj=stream, mode="w|", bufsize=_BLOCK, format=tarfile.GNU_FORMAT) as archive,
            tqdm(total=total, unit="B", unit_scale=True, desc="packing", miniters=1) as bar,
        ):
            for member in members:
                digest = _add(archive, top, member, moment, bar.update)
                if not member.link:
                    sums.append(f"{digest}  {member.name}\n")
            _add(archive, top, Member(SUMS, "".join(sums).encode()), moment, lambda _: None)
        move(part, output)
    finally:
        part.unlink(missing_ok=True)


def _add(archive: tarfile.TarFile, top: str, member: Member, moment: int, heard: Callable[[int], object]) -> str:
    entry = tarfile.TarInfo(f"{top}/{member.name}")
    entry.mtime = moment
    entry.mode = 0o755 if member.executable else 0o644
    if member.link:
        entry.type, entry.linkname = tarfile.SYMTYPE, member.link
        archive.addfile(entry)
        return ""
    entry.size = member.size
    with member.open() as content:
        summed = _Summed(content, heard)
        archive.addfile(entry, summed)  # type: ignore[arg-type]  # it only reads
    return summed.sha256.hexdigest()


def make(output: Path | None, pythons: list[str], models: str, torch: str | None) -> None:
    """Make a bundle and print what it holds.

    Args:
        output: The file; None for one in ``bundles/``, named by what it holds.
        pythons: For which versions of Python; empty for this one.
        models: Names of models whose checkpoints come along, with commas.
        torch: PyTorch's build, see :func:`wheels.sources`; None for the one that is installed here.

    Raises:
        ValueError: If it cannot be made; the message says why.
    """
    program("zstd")
    pythons = sorted(set(pythons or [f"3.{sys.version_info.minor}"]))
    torch = torch or torch_here()
    moment = int(git("show", "--no-patch", "--format=%ct", "HEAD"))
    if git("status", "--porcelain", "--untracked-files=no"):
        print("Changes that are not committed do not come along.", file=sys.stderr)
    chosen = checkpoints(models)
    WORK.mkdir(exist_ok=True)
    top = f"sam-app-{VERSION}"
    output = output or WORK / f"{top}-{'cuda' if torch == 'lock' else 'cpu'}-py{'-'.join(pythons)}.tar.zst"
    with locked(WORK):
        files = wheels_for(pythons, torch, moment)
        os.environ.setdefault("SOURCE_DATE_EPOCH", str(moment))
        models_in_it = [ROOT / MODELS / get_spec("sam_tiny").checkpoint, *(Path(str(one.content)) for one in chosen)]
        parts = {
            "repository": repository(),
            "checkpoints": chosen,
            "packages": [Member(f"wheels/{path.name}", path) for path in files],
            "bill of materials": [Member("sbom.cdx.json", bill_of_materials([WORK / "wheels"], models_in_it).encode())],
            "Pythons": [Member("wheels/pythons", "".join(f"{python}\n" for python in pythons).encode())],
        }
        pack([member for part in parts.values() for member in part], top, moment, output)
    for name, part in parts.items():
        print(f"{name:<18}{len(part):>5} files{in_megabytes(sum(member.size for member in part)):>12}")
    with output.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    print(f"{'bundle':<29}{in_megabytes(output.stat().st_size):>12}  {output}\nSHA-256 {digest}")
