"""scripts/bundle with a small lock: made with an index on this machine, installed where there is no network."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import wheels
from support.no_network import without_network
from support.package_index import PackageIndex, running_index
from support.wheels import write_wheel

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).with_name("uv")
BARE_PYTHON = Path(sys.base_prefix) / "bin" / "python3"
HERE = f"3.{sys.version_info.minor}"
OTHER = "3.12" if HERE == "3.13" else "3.13"

LOCK = f"""torch==2.15.0
torchvision==0.29.2
nvidia-cublas==13.4 ; sys_platform == 'linux'
triton==3.9.0 ; sys_platform == 'linux'
monailabel==0.8.5
setuptools==84.2.1
compiled==1.0
from-source==1.0
for-the-other==2.0 ; python_version == '{OTHER}'
"""

pytestmark = [
    pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not there: apt-get install zstd"),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not there: apt-get install git"),
]


def write_sources(folder: Path, name: str, version: str) -> None:
    """Write a package that is published as sources alone."""
    setup = f"import setuptools\nsetuptools.setup(name={name!r}, version={version!r}, py_modules=[{name!r}])\n"
    with tarfile.open(folder / f"{name}-{version}.tar.gz", "w:gz") as archive:
        files = {
            "setup.py": setup,
            f"{name}.py": "ANSWER = 42\n",
            "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        }
        for path, text in files.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{path}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PackageIndex]:
    """The index, with the lock's packages; the wheel of uv calls the uv that is here."""
    folder = tmp_path_factory.mktemp("index")
    version = re.search(r"UV_VERSION=(\S+)", (ROOT / "scripts" / "setup").read_text()).group(1)
    files = folder / "files"
    write_wheel(files, "uv", version, uv=f'#!/bin/sh\nexec "{UV}" "$@"\n')
    write_wheel(files, "monailabel", "0.8.5", monailabel="#!python\n")
    for name, build in (("torch", "2.15.0"), ("torchvision", "0.29.2"), ("nvidia_cublas", "13.4"), ("triton", "3.9.0")):
        write_wheel(files, name, build)
    write_wheel(files, "for_the_other", "2.0")
    write_wheel(files, "setuptools", "84.2.1")
    for python in (HERE, OTHER):
        tag = f"cp{python.replace('.', '')}"
        for platform in ("win_amd64", "macosx_11_0_arm64", "manylinux_2_39_x86_64", "manylinux_2_28_x86_64"):
            write_wheel(files, "compiled", "1.0", tag=f"{tag}-{tag}-{platform}")
    write_sources(files, "from_source", "1.0")
    with running_index(folder) as served:
        served.write()
        yield served


class Clone:
    """A clone of a small repository, and a machine without a network.

    Args:
        folder: Where both lie, in folders with spaces.
        index: The index that the clone's machine asks.
    """

    def __init__(self, folder: Path, index: PackageIndex) -> None:
        self.folder = folder
        self.index = index
        self.root = folder / "a clone"
        self.file = folder / "the bundle.tar.zst"
        self.target = folder / "a hospital" / "sam app"
        unwanted = shutil.ignore_patterns("__pycache__")
        for part in ("scripts", "apps/sam_app/lib", "apps/sam_app/site"):
            shutil.copytree(ROOT / part, self.root / part, ignore=unwanted)
        shutil.copy(ROOT / ".gitignore", self.root)
        (self.root / "requirements.txt").write_text(LOCK)
        (self.root / "requirements-dev.txt").write_text("")
        (self.root / "requirements.sizes").write_text("torch 1000\ntorch+cpu 1000\n")
        (self.root / "apps" / "sam_app" / "model").mkdir()
        (self.root / "apps" / "sam_app" / "model" / "sam_tiny.safetensors").write_text("weights")
        self.git("init", "--quiet")
        self.commit()

    def git(self, *arguments: str) -> None:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(self.root), *identity, *arguments], check=True, capture_output=True)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "all")

    def make(self, *options: str, output: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Make a bundle with the environment of these tests."""
        command = [sys.executable, str(self.root / "scripts" / "bundle.py"), "make"]
        return subprocess.run(
            [*command, "--output", str(output or self.file), *options],
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))},
                "PYTHONPATH": str(self.root / "apps" / "sam_app"),
                "UV_DEFAULT_INDEX": self.index.url,
                "UV_CACHE_DIR": str(self.folder / "uv"),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def on_the_other_machine(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command without a network, by a Python without packages, from an empty home."""
        home = self.folder / "an empty home"
        home.mkdir(exist_ok=True)
        return subprocess.run(
            [*without_network(), *map(str, command)],
            env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHON": str(BARE_PYTHON)},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def install(self) -> subprocess.CompletedProcess[str]:
        """Install the bundle by a clone's command."""
        return self.on_the_other_machine(self.root / "scripts" / "bundle", "install", self.file, self.target)

    def unpack(self) -> None:
        """Unpack the bundle by hand."""
        self.target.mkdir(parents=True)
        command = ["tar", "--zstd", "-x", "-f", str(self.file), "--strip-components=1", "-C", str(self.target)]
        subprocess.run(command, check=True)

    @property
    def installed(self) -> set[str]:
        """The packages on the other machine."""
        found = {folder.stem for folder in self.target.glob(".venv/lib/python3*/site-packages/*.dist-info")}
        return {name for name in found if not name.startswith(("pip-", "setuptools-", "uv-"))}


@pytest.fixture
def clone(tmp_path: Path, index: PackageIndex) -> Clone:
    return Clone(tmp_path, index)


WITH_CUDA = {"torch-2.15.0", "torchvision-0.29.2", "nvidia_cublas-13.4", "triton-3.9.0"}
WITH_CPU = {"torch-2.15.0+cpu", "torchvision-0.29.2+cpu"}
OTHERS = {"monailabel-0.8.5", "compiled-1.0", "from_source-1.0"}


@pytest.mark.slow
def test_made_here_installed_there(clone: Clone) -> None:
    made = clone.make("--torch", "lock")
    assert made.returncode == 0, made.stderr
    assert re.search(r"^packages +9 files +0\.0 MB$", made.stdout, re.MULTILINE), made.stdout
    digest = hashlib.sha256(clone.file.read_bytes()).hexdigest()
    assert made.stdout.endswith(f"SHA-256 {digest}\n") and "packing: 100%" in made.stderr

    done = clone.install()
    assert done.returncode == 0, done.stderr
    assert clone.installed == WITH_CUDA | OTHERS
    assert "Installing 8 packages: 0.0 GB from the bundle" in done.stderr
    assert done.stdout == f"Installed. To serve: {clone.target}/scripts/start\n"
    assert (clone.target / "apps" / "sam_app" / "model" / "sam_tiny.safetensors").read_text() == "weights"
    assert '"name": "from-source"' in (clone.target / "sbom.cdx.json").read_text()
    sums = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=clone.target, check=False)
    assert sums.returncode == 0
    assert os.access(clone.target / "scripts" / "start", os.X_OK)
    assert not list(clone.target.parent.glob(".*")) and not (clone.target / ".venv" / ".uv-cache").exists()
    assert not (clone.folder / "an empty home" / ".cache").exists()

    again = clone.on_the_other_machine(clone.target / "scripts" / "setup")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    shutil.rmtree(clone.target / "wheels")
    without_wheels = clone.on_the_other_machine(clone.target / "scripts" / "setup")
    assert (without_wheels.returncode, without_wheels.stderr) == (0, "")


@pytest.mark.slow
def test_with_pytorch_for_cpus_from_a_folder_unpacked_by_hand(clone: Clone, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels for CPUs"
    for name, build in (("torch", "2.15.0+cpu"), ("torchvision", "0.29.2+cpu")):
        write_wheel(wheels, name, build)
    made = clone.make("--torch", str(wheels))
    assert made.returncode == 0, made.stderr
    clone.unpack()
    done = clone.on_the_other_machine(clone.target / "scripts" / "setup")
    assert done.returncode == 0, done.stderr
    assert clone.installed == WITH_CPU | OTHERS


def test_the_same_commit_gives_the_same_bytes_and_fetches_nothing_twice(clone: Clone, index: PackageIndex) -> None:
    index.asked.clear()
    assert clone.make("--torch", "lock").returncode == 0
    assert len(set(index.asked)) == len(index.asked) == 9
    other = clone.folder / "other.tar.zst"
    (clone.root / "README.md").write_text("not committed")
    clone.git("add", "README.md")
    made = clone.make("--torch", "lock", output=other)
    assert "Changes that are not committed do not come along." in made.stderr
    assert len(index.asked) == 9
    assert other.read_bytes() == clone.file.read_bytes()


def test_what_was_interrupted_goes_on_and_leaves_no_half_bundle(clone: Clone, index: PackageIndex) -> None:
    missing = next(index.files.glob("nvidia_cublas*"))
    missing.rename(index.files.parent / missing.name)
    clone.file.write_text("an earlier bundle")
    try:
        index.asked.clear()
        made = clone.make("--torch", "lock")
        assert made.returncode == 1
        assert f"scripts/bundle: {missing.name} was not fetched: 127.0.0.1 answered 404" in made.stderr
        assert clone.file.read_text() == "an earlier bundle" and not list(clone.folder.glob("*.part"))
    finally:
        (index.files.parent / missing.name).rename(missing)
    fetched = set(index.asked) - {missing.name}
    assert fetched
    index.asked.clear()
    assert clone.make("--torch", "lock").returncode == 0
    assert missing.name in index.asked and not fetched & set(index.asked)


def test_a_wheel_that_is_not_what_the_index_states_is_refused(clone: Clone, tmp_path: Path) -> None:
    with running_index(tmp_path / "index") as other:
        shutil.copytree(clone.index.files, other.files)
        other.write(triton="0" * 64)
        clone.index = other
        made = clone.make("--torch", "lock")
    assert made.returncode == 1
    assert "triton-3.9.0-py3-none-any.whl is damaged or another file" in made.stderr
    assert not clone.file.exists() and not list((clone.root / "bundles" / "wheels").glob("triton*"))


@pytest.mark.slow
def test_pytorch_for_cpus_is_not_replaced_without_a_word(clone: Clone) -> None:
    made = clone.make("--torch", "http://127.0.0.1:9/simple")
    assert made.returncode == 1
    assert f"scripts/bundle: uv does not find the packages for Python {HERE}:" in made.stderr
    made = clone.make("--torch", clone.index.url)
    assert made.returncode == 1
    assert f"scripts/bundle: {clone.index.url} has torch 2.15.0, which is no build for CPUs" in made.stderr
    assert not clone.file.exists()


def test_for_another_python(clone: Clone) -> None:
    assert clone.make("--torch", "lock", "--python", OTHER).returncode == 0
    clone.unpack()
    names = {path.name for path in (clone.target / "wheels").iterdir()}
    tag = f"cp{OTHER.replace('.', '')}"
    assert {name for name in names if name.startswith("compiled")} == {
        f"compiled-1.0-{tag}-{tag}-manylinux_2_28_x86_64.whl"
    }
    assert "for_the_other-2.0-py3-none-any.whl" in names
    done = clone.on_the_other_machine(clone.target / "scripts" / "setup")
    assert done.returncode == 1
    assert f"Python {OTHER} is needed, but {BARE_PYTHON} is {HERE}." in done.stderr
    assert not (clone.target / ".venv").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, index: PackageIndex) -> Clone:
    """A clone with a bundle, to be copied."""
    made_in = Clone(tmp_path_factory.mktemp("whole"), index)
    made = made_in.make("--torch", "lock")
    assert made.returncode == 0, made.stderr
    return made_in


def cut(content: bytes) -> bytes:
    """As if copying it had been interrupted."""
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    """With one bit changed."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def repacked(content: bytes, change: str) -> bytes:
    """With one member changed, left out or added, compressed again."""
    plain = subprocess.run(["zstd", "-d", "-c"], input=content, capture_output=True, check=True).stdout
    made = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive, tarfile.open(fileobj=made, mode="w") as other:
        for entry in archive:
            data = archive.extractfile(entry).read()
            if entry.name.endswith("/main_part.py") or (change == "sums" and entry.name.endswith("/SHA256SUMS")):
                continue
            if change == "file" and entry.name.endswith("scripts/serve.py"):
                data = data.replace(b"127.0.0.1", b"127.0.0.2")
            if change == "missing" and entry.name.endswith("scripts/serve.py"):
                continue
            entry.size = len(data)
            other.addfile(entry, io.BytesIO(data))
        if change == "added":
            other.addfile(tarfile.TarInfo("sam-app/scripts/more.py"), io.BytesIO())
    return subprocess.run(["zstd", "-q", "-c"], input=made.getvalue(), capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is damaged, incomplete or no bundle"),
        (flip, "is damaged, incomplete or no bundle"),
        (lambda content: b"PK\x03\x04" + content, "is damaged, incomplete or no bundle"),
        (lambda content: repacked(content, "file"), "the bundle is damaged: scripts/serve.py is not as listed"),
        (lambda content: repacked(content, "missing"), "the bundle is damaged: scripts/serve.py is not as listed"),
        (lambda content: repacked(content, "added"), "the bundle is damaged: scripts/more.py is not as listed"),
        (lambda content: repacked(content, "sums"), "the bundle has no SHA256SUMS: it is incomplete or none"),
    ],
    ids=["cut", "bit", "other-kind", "changed", "missing", "added", "no-sums"],
)
def test_a_damaged_bundle_installs_nothing(whole: Clone, tmp_path: Path, damage, message: str) -> None:
    file, folder = tmp_path / "damaged.tar.zst", tmp_path / "sam"
    file.write_bytes(damage(whole.file.read_bytes()))
    done = whole.on_the_other_machine(whole.root / "scripts" / "bundle", "install", file, folder)
    assert done.returncode == 1
    assert f"{message}" in done.stderr and "Nothing was installed" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_folder_that_holds_something_is_left_alone(whole: Clone, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    done = whole.on_the_other_machine(whole.root / "scripts" / "bundle", "install", whole.file, tmp_path)
    assert done.returncode == 1 and f"{tmp_path} is there already" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    absent = whole.on_the_other_machine(whole.root / "scripts" / "bundle", "install", tmp_path / "none", tmp_path / "x")
    assert absent.returncode == 1 and f"there is no file {tmp_path}/none" in absent.stderr


def test_set_up_refuses_damaged_wheels_and_half_a_folder(whole: Clone, tmp_path: Path) -> None:
    whole.target = tmp_path / "sam"
    whole.unpack()
    wheel = whole.target / "wheels" / "triton-3.9.0-py3-none-any.whl"
    wheel.write_bytes(flip(wheel.read_bytes()))
    done = whole.on_the_other_machine(whole.target / "scripts" / "setup")
    assert done.returncode == 1
    assert f"wheels/{wheel.name}: FAILED" in done.stderr and "the bundle's wheels are damaged, see above" in done.stderr
    assert not (whole.target / ".venv").exists()
    (whole.target / "SHA256SUMS").unlink()
    done = whole.on_the_other_machine(whole.target / "scripts" / "start")
    assert done.returncode == 1 and "this offline bundle was unpacked in part only" in done.stderr


def test_what_cannot_be_made(whole: Clone, tmp_path: Path) -> None:
    unknown = whole.make("--models", "sam_huge", output=tmp_path / "x")
    assert unknown.returncode == 1 and "sam_huge" in unknown.stderr
    missing = whole.make("--models", "sam_vit_b", output=tmp_path / "x")
    assert missing.returncode == 1 and "run `scripts/weights download sam_vit_b`" in missing.stderr
    whole.target = tmp_path / "sam"
    whole.unpack()
    whole.root, root = whole.target, whole.root
    try:
        no_clone = whole.make(output=tmp_path / "x")
    finally:
        whole.root = root
    assert no_clone.returncode == 1 and "a bundle is made of a clone of the repository" in no_clone.stderr
    assert not (tmp_path / "x").exists()


def test_a_disk_that_is_full_leaves_no_half_bundle(whole: Clone, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "zstd").write_text("#!/bin/sh\nhead -c 100000 >/dev/null\necho 'no space left' >&2\nexit 1\n")
    (tmp_path / "bin" / "zstd").chmod(0o755)
    made = whole.make("--torch", "lock", output=tmp_path / "x", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert made.returncode == 1
    assert "no space left" in made.stderr and "scripts/bundle: zstd failed: see above" in made.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_progress_is_told_of_every_byte(index: PackageIndex, tmp_path: Path) -> None:
    file = next(index.files.glob("triton*"))
    size, digest = file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()
    source = wheels.Source("triton", "3.9.0", file.name, f"{index.url}../files/{file.name}", digest, size)
    for _ in ("fetched", "there already"):
        heard: list[int] = []
        assert wheels.bring(source, tmp_path, heard.append).read_bytes() == file.read_bytes()
        assert sum(heard) == size
