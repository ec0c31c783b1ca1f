"""scripts/setup with a Python that only pretends: what it installs is what it writes into its log."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from support.package_index import running_index
from support.wheels import write_wheel

ROOT = Path(__file__).resolve().parents[2]

FAKE_PYTHON = """#!/usr/bin/env bash
# Stands for Python (and, by the names it is copied to, for uv): answers its version, makes folders for environments.
echo "$(basename "$0") $*" >>"$FAKE_LOG"
bin=$(dirname "$0")
site=$bin/../lib/python3.11/site-packages
case "$*" in
    *sys.version_info*) echo "VERSION" ;;
    *purelib*) echo "$site" ;;
    *ensurepip*) [ -z "${FAKE_NO_ENSUREPIP:-}" ] ;;
    "-I -m venv "*) mkdir -p "$4/bin" "$4/lib/python3.11/site-packages"
        touch "$4/pyvenv.cfg" && cp "$0" "$4/bin/python" ;;
    *"pip install"*uv==* | *"pip install -qq --require-hashes"*) cp "$0" "$bin/uv" ;;
    *"pip install"*monailabel==* | *"pip install -qq --no-deps"*) cp "$0" "$bin/monailabel" ;;
    "pip install"*--dry-run*torch==*) [ -z "${FAKE_NO_CPU_TORCH:-}" ] ||
        { printf 'error: none\\n  cause: there is no torch here\\n' >&2 && exit 1; } ;;
    "pip install"*torch==*) mkdir -p "$site/torch-2.15.0+cpu.dist-info" ;;
    "pip uninstall"*) rmdir "$site/torch-2.15.0+cpu.dist-info" ;;
    "pip sync --dry-run"*) sed 's/^[a-z]/ + &/' "$4" >&2 ;;
    "pip sync"*) sleep "${FAKE_SYNC_SECONDS:-0}"; [ -z "${FAKE_SYNC_FAILS:-}" ] ;;
    "python install"*) [ -z "${FAKE_NO_DOWNLOAD:-}" ] || exit 1
        mkdir -p "$4/cpython-3.13.9-linux/bin" && cp "$0" "$4/cpython-3.13.9-linux/bin/python3" ;;
esac
"""

UV_VERSION = re.search(r"UV_VERSION=(\S+)", (ROOT / "scripts" / "setup").read_text()).group(1)
HAS_GPU = any(Path(path).exists() for path in ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/dxg"))
LOCK = """torch==2.15.0
    # via -r requirements.in
torchvision==0.29.2
nvidia-cublas==13.4 ; sys_platform == 'linux'
triton==3.9.0 ; sys_platform == 'linux'
monailabel==0.8.5
setuptools==84.2.1
"""
SIZES = "monailabel 20000000\nnvidia-cublas 2000000000\ntorch 500000000\ntorch+cpu 190000000\ntriton 300000000\n"

TOOLS = ["awk", "basename", "bash", "cat", "cp", "cut", "dirname", "du", "env", "flock", "grep", "ls", "mkdir", "mv"]
TOOLS += ["rm", "rmdir", "sed", "sha256sum", "sleep", "touch"]

without_gpu = pytest.mark.skipif(HAS_GPU or shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")


class Clone:
    """A repository with nothing but the set-up, in a folder with spaces."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a clone"
        self.log = folder / "log"
        self.python = folder / "fake python" / "python3"
        self.venv = self.root / ".venv"
        (self.root / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "setup", self.root / "scripts" / "setup")
        self.lock = self.root / "requirements.txt"
        self.lock.write_text(LOCK)
        (self.root / "requirements.sizes").write_text(SIZES)
        (self.root / "requirements-docs.txt").write_text("zensical==1\n")
        (self.root / "requirements-dev.txt").write_text("pytest==9\nzensical==1\n")
        (self.root / "requirements-ray.txt").write_text("ray==2\n")
        self.python.parent.mkdir()
        self.pretend("python3", "3.11.7")

    def pretend(self, name: str, version: str) -> None:
        """Makes a fake Python of that version, for PATH or to be :attr:`python`."""
        self.python = self.python.with_name(name)
        self.python.write_text(FAKE_PYTHON.replace("VERSION", version))
        self.python.chmod(0o755)

    @property
    def packages(self) -> str:
        """What uv was last asked to install."""
        return (self.venv / ".setup-packages").read_text()

    def start(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        """Starts the set-up from another directory."""
        fakes = {"PYTHON": str(self.python), "FAKE_LOG": str(self.log), **environment}
        return subprocess.Popen(
            [str(self.root / "scripts" / "setup"), *options],
            cwd="/",
            env={"PATH": os.environ["PATH"], "HOME": str(self.root), **fakes},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs the set-up to its end."""
        process = self.start(*options, **environment)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def installs(self) -> list[str]:
        """What was asked of uv since the last call, but for what it was only asked to tell."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("uv pip sync")]
        lines = [line for line in lines if "--dry-run" not in line]
        self.log.write_text("")
        return lines


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_first_run_installs_the_lock_and_mends_the_monailabel_command(clone: Clone) -> None:
    done = clone.run()
    assert done.returncode == 0, done.stderr
    log = clone.log.read_text()
    assert "uv pip install --quiet --no-deps setuptools==84.2.1 --python" in log  # builds what comes as source
    assert f"uv pip sync --no-build-isolation {clone.venv}/.setup-packages --python {clone.venv}/bin/python\n" in log
    assert "pip install -qq --no-deps --force-reinstall monailabel==0.8.5\n" in log
    assert (clone.venv / "bin" / "monailabel").exists()


def test_second_run_does_nothing_and_is_quick(clone: Clone) -> None:
    clone.run()
    clone.installs()
    began = time.monotonic()
    again = clone.run()
    assert time.monotonic() - began < 1
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert clone.installs() == []


@pytest.mark.parametrize("version", ["3.9.18", "3.10.14", "3.14.0", "2.7.18", "3.1.5"])
def test_another_python_is_refused_before_anything_is_made(clone: Clone, version: str) -> None:
    clone.pretend("python3", version)
    done = clone.run()
    assert done.returncode == 1
    assert "Python 3.11, 3.12 or 3.13 is needed" in done.stderr
    assert version in done.stderr
    for way in ("apt-get install python3 python3-venv", "PYTHON=/path/to/python3.12", "scripts/setup --get-python"):
        assert way in done.stderr
    assert not clone.venv.exists()


def test_a_python_that_is_not_there_is_named(clone: Clone) -> None:
    done = clone.run(PYTHON="/no/such/python")
    assert done.returncode == 1
    assert "/no/such/python is not there" in done.stderr


def test_the_first_python_on_path_that_fits_is_taken(clone: Clone) -> None:
    versions = {"python3.11": "", "python3.12": "3.12.4", "python3.13": "3.13.0", "python3": "3.10.2"}
    for name, version in versions.items():
        clone.pretend(name, version)
    on_path = {"PYTHON": "", "PATH": f"{clone.python.parent}:{os.environ['PATH']}"}
    assert clone.run("--which-python", **on_path).stdout == "python3.12\n"
    assert clone.run("--which-python", "--python", "3.13", **on_path).stdout == "python3.13\n"


def test_a_version_that_was_asked_for_has_an_environment_of_its_own(clone: Clone) -> None:
    clone.run()
    clone.installs()
    clone.pretend("python3", "3.13.1")
    assert clone.run("--python", "3.13").returncode == 0
    assert (clone.root / ".venv-3.13" / "bin" / "uv").exists()
    assert len(clone.installs()) == 1
    clone.pretend("python3", "3.11.7")
    assert clone.run().returncode == 0
    assert clone.installs() == []
    other = clone.run("--python", "3.12")
    assert other.returncode == 1 and "Python 3.12 is needed" in other.stderr and "is 3.11.7" in other.stderr


@pytest.mark.parametrize("options", [["--python"], ["--python", "3.10"], ["--python", "3"], ["--python", "../x"]])
def test_a_version_that_cannot_be_had_is_refused(clone: Clone, options: list[str]) -> None:
    done = clone.run(*options)
    assert done.returncode == 1
    assert "--python is one of 3.11 3.12 3.13" in done.stderr


def test_a_downloaded_python_is_used_from_then_on(clone: Clone) -> None:
    clone.pretend("python3", "3.9.2")
    # The fake that is "downloaded" is a copy of the fake uv; to be of another version it asks for it when it runs.
    clone.python.write_text(FAKE_PYTHON.replace("VERSION", "$([[ $0 == */cpython-* ]] && echo 3.13.9 || echo 3.9.2)"))
    bare = clone.python.with_name("bare")
    bare.mkdir()
    for name in TOOLS:
        (bare / name).symlink_to(str(shutil.which(name)))
    only_old = {"PYTHON": "", "PATH": f"{clone.python.parent}:{bare}"}

    refused = clone.run(**only_old)
    assert refused.returncode == 1 and "python3 is 3.9.2" in refused.stderr and "--get-python" in refused.stderr
    assert not (clone.root / ".python").exists()

    failed = clone.run("--get-python", FAKE_NO_DOWNLOAD="1", **only_old)
    assert failed.returncode == 1
    assert "Python 3.13 could not be downloaded: see above" in failed.stderr
    assert clone.run(**only_old).returncode == 1

    got = clone.run("--get-python", **only_old)
    assert f"Downloading Python 3.13 into {clone.root}/.python" in got.stderr
    assert clone.run("--which-python", **only_old).stdout == (
        f"{clone.root}/.python/cpython-3.13.9-linux/bin/python3\n"
    )


def test_a_python_without_ensurepip_says_which_package_to_install(clone: Clone) -> None:
    done = clone.run(FAKE_NO_ENSUREPIP="1")
    assert done.returncode == 1
    assert "apt-get install python3.11-venv" in done.stderr


def test_a_changed_lock_is_installed(clone: Clone) -> None:
    clone.run()
    clone.installs()
    clone.lock.write_text(LOCK + "numpy==1\n")
    assert clone.run().returncode == 0
    assert len(clone.installs()) == 1
    assert clone.run().returncode == 0
    assert clone.installs() == []


def test_dev_adds_the_test_tools_and_running_keeps_them(clone: Clone) -> None:
    clone.run()
    clone.installs()
    assert clone.run("--dev").returncode == 0
    assert len(clone.installs()) == 1
    assert "monailabel==0.8.5\n" in clone.packages and "pytest==9\n" in clone.packages
    clone.run()
    clone.run("--dev")
    assert clone.installs() == []
    clone.lock.write_text(LOCK + "numpy==1\n")
    clone.run()
    assert "numpy==1\n" in clone.packages and "pytest==9\n" in clone.packages
    clone.installs()
    clone.run("--dev")
    assert clone.installs() == []


def test_docs_adds_what_the_site_needs_and_dev_has_it_too(clone: Clone) -> None:
    assert clone.run("--docs").returncode == 0
    assert "monailabel==0.8.5\n" in clone.packages and "zensical==1\n" in clone.packages
    assert "pytest" not in clone.packages
    clone.lock.write_text(LOCK + "numpy==1\n")
    clone.run()
    assert "numpy==1\n" in clone.packages and "zensical==1\n" in clone.packages
    clone.run("--dev")
    assert "pytest==9\n" in clone.packages
    clone.installs()
    assert clone.run("--docs").returncode == 0 and clone.installs() == []
    (clone.root / "requirements-dev.txt").write_text("pytest==10\nzensical==2\n")
    (clone.root / "requirements-docs.txt").write_text("zensical==2\n")
    clone.run("--docs")
    assert "pytest==10\n" in clone.packages and "zensical==2\n" in clone.packages


def test_ray_is_added_beside_the_test_tools_and_stays(clone: Clone) -> None:
    clone.run("--dev")
    clone.installs()
    assert clone.run("--ray").returncode == 0
    assert len(clone.installs()) == 1
    assert "pytest==9\n" in clone.packages and "ray==2\n" in clone.packages
    for options in ([], ["--dev"], ["--ray"], ["--ray", "--dev"]):
        clone.run(*options)
    assert clone.installs() == []
    clone.lock.write_text(LOCK + "numpy==1\n")
    clone.run()
    assert "ray==2\n" in clone.packages and "pytest==9\n" in clone.packages
    (clone.root / "requirements-ray.txt").write_text("ray==3\n")
    clone.run()
    assert len(clone.installs()) == 1, "whoever did not ask for Ray is not kept from starting by its new version"
    clone.run("--ray")
    assert len(clone.installs()) == 1 and "ray==3\n" in clone.packages


def test_an_interrupted_set_up_is_done_again(clone: Clone) -> None:
    assert clone.run(FAKE_SYNC_FAILS="1").returncode != 0
    clone.installs()
    assert clone.run().returncode == 0
    assert len(clone.installs()) == 1


def test_a_failed_update_does_not_count_as_the_old_set_up(clone: Clone) -> None:
    clone.run()
    before = clone.lock.read_text()
    clone.lock.write_text(before + "numpy==1\n")
    assert clone.run(FAKE_SYNC_FAILS="1").returncode != 0
    clone.lock.write_text(before)
    clone.installs()
    assert clone.run().returncode == 0
    assert len(clone.installs()) == 1


def test_a_moved_clone_gets_a_new_environment(clone: Clone) -> None:
    clone.run()
    (clone.venv / "old").touch()
    moved = clone.root.with_name("moved")
    clone.root.rename(moved)
    clone.root, clone.venv = moved, moved / ".venv"
    assert clone.run().returncode == 0
    assert not (clone.venv / "old").exists()


def test_another_python_version_gets_a_new_environment(clone: Clone) -> None:
    clone.pretend("python3.12", "3.12.4")
    clone.run()
    (clone.venv / "old").touch()
    clone.pretend("python3.11", "3.11.7")
    assert clone.run().returncode == 0
    assert not (clone.venv / "old").exists()


def test_a_folder_that_is_no_environment_is_left_alone(clone: Clone) -> None:
    clone.venv.mkdir()
    (clone.venv / "mine").write_text("precious")
    done = clone.run()
    assert done.returncode == 1
    assert "move it away" in done.stderr
    assert (clone.venv / "mine").read_text() == "precious"


def test_two_at_once_install_once(clone: Clone) -> None:
    processes = [clone.start(FAKE_SYNC_SECONDS="1") for _ in range(2)]
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0, 0]
    assert len(clone.installs()) == 1


@without_gpu
def test_without_a_gpu_pytorch_is_the_build_for_cpus(clone: Clone) -> None:
    done = clone.run()
    assert "Installing 4 packages: 0.2 GB to fetch unless they are cached\n" in done.stderr
    log = clone.log.read_text()
    assert "pip install --no-deps --torch-backend cpu --reinstall torch==2.15.0 torchvision==0.29.2 --python" in log
    assert clone.packages == LOCK.split("nvidia")[0] + "monailabel==0.8.5\nsetuptools==84.2.1\n"


def test_with_a_gpu_pytorch_is_the_build_of_the_lock(clone: Clone) -> None:
    clone.pretend("nvidia-smi", "")
    clone.pretend("python3", "3.11.7")
    done = clone.run(PATH=f"{clone.python.parent}:{os.environ['PATH']}")
    assert "Installing 6 packages: 2.8 GB to fetch unless they are cached\n" in done.stderr
    assert "torch==" not in clone.log.read_text()
    assert clone.packages == LOCK


@without_gpu
def test_what_cannot_be_had_is_said_in_a_line_and_replaced_by_the_lock(clone: Clone) -> None:
    done = clone.run(FAKE_NO_CPU_TORCH="1")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("PyTorch")]
    assert line == ("PyTorch for CPUs cannot be had: taking the build for CUDA, 3 GB more. (there is no torch here)")
    assert clone.packages == LOCK


def test_where_pytorch_comes_from_is_remembered(clone: Clone, tmp_path: Path) -> None:
    wheels = tmp_path / "wheel house"
    wheels.mkdir()
    assert clone.run(TORCH_INDEX=str(wheels)).returncode == 0
    assert f"pip install --no-deps --no-index --find-links {wheels} " in clone.log.read_text()
    clone.installs()
    assert clone.run().returncode == 0
    assert clone.installs() == []
    clone.lock.write_text(LOCK + "numpy==1\n")
    assert clone.run().returncode == 0
    assert f"--find-links {wheels} " in clone.log.read_text()
    clone.installs()

    assert clone.run(TORCH_INDEX="lock").returncode == 0
    assert "uv pip uninstall --quiet torch torchvision --python" in clone.log.read_text()
    assert "nvidia-cublas" in clone.packages
    clone.installs()
    assert clone.run(TORCH_INDEX="http://mirror.example/simple").returncode == 0
    assert "--default-index http://mirror.example/simple --reinstall torch==2.15.0" in clone.log.read_text()


def test_a_folder_for_pytorch_that_is_not_there_is_named(clone: Clone) -> None:
    done = clone.run(TORCH_INDEX="/no/such folder")
    assert done.returncode == 1
    assert done.stderr == "scripts/setup: TORCH_INDEX=/no/such folder is neither cpu, lock, a URL nor a folder\n"


@pytest.mark.slow
def test_pytorch_s_place_goes_before_the_mirror_of_all_others(clone: Clone, tmp_path: Path) -> None:
    version = re.search(r"UV_VERSION=(\S+)", (ROOT / "scripts" / "setup").read_text()).group(1)
    with running_index(tmp_path / "mirror") as mirror, running_index(tmp_path / "cpu") as cpu:
        uv = f'#!/bin/sh\nexec "{Path(sys.executable).with_name("uv")}" "$@"\n'
        write_wheel(mirror.files, "uv", version, uv=uv)
        write_wheel(mirror.files, "monailabel", "0.8.5", monailabel="#!python\n")
        write_wheel(mirror.files, "setuptools", "84.2.1")
        for name, build in (("torch", "2.15.0"), ("torchvision", "0.29.2")):
            write_wheel(mirror.files, name, build)
            write_wheel(cpu.files, name, f"{build}+cpu")
        mirror.write()
        cpu.write()
        mirrors = {"PIP_INDEX_URL": mirror.url, "UV_DEFAULT_INDEX": mirror.url, "UV_CACHE_DIR": str(tmp_path / "uv")}
        done = clone.run(PYTHON=sys.executable, TORCH_INDEX=cpu.url, **mirrors)
    assert done.returncode == 0, done.stderr
    builds = {folder.stem for folder in clone.venv.glob("lib/python3*/site-packages/torch*.dist-info")}
    assert builds == {"torch-2.15.0+cpu", "torchvision-0.29.2+cpu"}


@pytest.mark.slow
def test_a_long_installation_says_every_20_seconds_that_it_goes_on(clone: Clone) -> None:
    done = clone.run(FAKE_SYNC_SECONDS="21")
    assert "  0 of 0 large packages fetched after 2" in done.stderr


def test_a_failed_installation_shows_what_uv_said(clone: Clone) -> None:
    clone.python.write_text(clone.python.read_text().replace('"pip sync"*)', '"pip sync"*) echo "no such package";'))
    done = clone.run(FAKE_SYNC_FAILS="1")
    assert done.returncode != 0
    assert "no such package" in done.stderr


def test_python_imports_the_list_of_what_is_left_out_when_it_starts(clone: Clone) -> None:
    clone.run()
    made = clone.venv / "lib" / "python3.11" / "site-packages" / "sam_app.pth"
    assert made.read_text() == f"{clone.root}/apps/sam_app/site\nimport left_out, late_imports\n"


def write_general_wheels(folder: Path) -> None:
    """Writes a wheel for each package of the lock, and one of uv that calls the uv that is here."""
    write_wheel(folder, "uv", UV_VERSION, uv=f'#!/bin/sh\nexec "{Path(sys.executable).with_name("uv")}" "$@"\n')
    write_wheel(folder, "monailabel", "0.8.5", monailabel="#!python\n")
    for name, version in re.findall(r"^([a-z-]+)==([0-9.]+)", LOCK, re.MULTILINE):
        if name != "monailabel":
            write_wheel(folder, name.replace("-", "_"), version)


def from_wheels(general: Path, folder: Path) -> dict[str, str]:
    """The environment of a set-up that takes all from a folder of wheels."""
    return {
        "PYTHON": sys.executable,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(general),
        "UV_OFFLINE": "1",
        "UV_FIND_LINKS": str(general),
        "UV_CACHE_DIR": str(folder / "uv"),
    }


@pytest.mark.slow
def test_with_uv_itself_one_build_of_pytorch_replaces_the_other(clone: Clone, tmp_path: Path) -> None:
    """Folders of wheels stand for the indices; the wheel of uv calls the uv that is here."""
    general, cpu, half = (tmp_path / name for name in ("general", "cpu wheels", "half"))
    write_general_wheels(general)
    for name, build in (("torch", "2.15.0+cpu"), ("torchvision", "0.29.2+cpu")):
        write_wheel(cpu, name, build)
    write_wheel(half, "torch", "2.15.0+cpu")
    offline = from_wheels(general, tmp_path)

    def installed(source: str) -> set[str]:
        done = clone.run(TORCH_INDEX=source, **offline)
        assert done.returncode == 0, done.stderr
        found = {folder.stem for folder in clone.venv.glob("lib/python3*/site-packages/*.dist-info")}
        return {name for name in found if not name.startswith(("pip-", "setuptools-", "uv-"))}

    with_cuda = {"torch-2.15.0", "torchvision-0.29.2", "nvidia_cublas-13.4", "triton-3.9.0", "monailabel-0.8.5"}
    with_cpu = {"torch-2.15.0+cpu", "torchvision-0.29.2+cpu", "monailabel-0.8.5"}
    assert installed(str(cpu)) == with_cpu
    assert installed("lock") == with_cuda
    assert installed(str(cpu)) == with_cpu
    assert installed("lock") == with_cuda
    assert installed(str(half)) == with_cuda  # torchvision's general build does not work with PyTorch's for CPUs


@pytest.mark.slow
def test_with_hashes_only_the_files_that_were_locked_are_installed(clone: Clone, tmp_path: Path) -> None:
    general, cpu = tmp_path / "general", tmp_path / "cpu"
    write_general_wheels(general)
    for name, build in (("torch", "2.15.0+cpu"), ("torchvision", "0.29.2+cpu")):
        write_wheel(cpu, name, build)
    lines = []  # as scripts/lock writes them
    for wheel in [*general.glob("*.whl"), *cpu.glob("*.whl")]:
        name, version = wheel.name.split("-")[:2]
        lines.append(f"{name.replace('_', '-')}=={version} --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}\n")
    (clone.root / "requirements.hashes").write_text("".join(lines))

    def set_up() -> subprocess.CompletedProcess[str]:
        return clone.run("--require-hashes", TORCH_INDEX=str(cpu), **from_wheels(general, tmp_path))

    for folder, name in ((general, "uv"), (cpu, "torch"), (general, "monailabel")):
        (wheel,) = folder.glob(f"{name}-*.whl")
        content = wheel.read_bytes()
        with zipfile.ZipFile(wheel, "a") as changed:
            changed.writestr("more.py", "")
        done = set_up()
        assert done.returncode != 0 and "sha256" in done.stderr.lower(), (name, done.stderr)
        assert not list(clone.venv.glob("lib/python3*/site-packages/more.py")), name
        wheel.write_bytes(content)
    done = set_up()
    assert done.returncode == 0 and "without a check" not in done.stderr, done.stderr
    assert list(clone.venv.glob("lib/python3*/site-packages/torch-2.15.0+cpu.dist-info"))


def test_a_build_of_pytorch_that_has_no_hash_is_named(clone: Clone) -> None:
    (clone.root / "requirements.hashes").write_text(
        "".join(f"{line} --hash=sha256:0\n" for line in [*LOCK.splitlines(), f"uv=={UV_VERSION}"] if "==" in line)
    )
    done = clone.run("--require-hashes", TORCH_INDEX="cpu")
    assert done.returncode == 0, done.stderr
    assert "PyTorch for CPUs is installed without a check: requirements.hashes lacks it\n" in done.stderr
    log = clone.log.read_text()
    assert f"uv pip sync --no-build-isolation --require-hashes {clone.venv}/.setup-packages" in log
    assert f"pip install -qq --require-hashes --requirement {clone.venv}/.setup-named\n" in log
    assert "monailabel==0.8.5 --hash=" in clone.packages and "uv==" not in clone.packages


@pytest.mark.parametrize("extra", ["--docs", "--dev", "--ray"])
def test_hashes_are_of_what_runs_alone(clone: Clone, extra: str) -> None:
    done = clone.run("--require-hashes", extra)
    assert done.returncode == 1
    assert "--require-hashes is without --docs, --dev and --ray" in done.stderr


def test_the_hashes_are_those_of_the_lock() -> None:
    pins = re.compile(r"^([a-z][^= ]*==[^ ]+(?: ;.*?)?)(?= --hash|$)", re.MULTILINE)
    lines = (ROOT / "requirements.hashes").read_text().splitlines()
    assert all(re.search(r" --hash=sha256:[0-9a-f]{64}$", line) for line in lines)
    hashed = {pins.match(line).group(1) for line in lines if not re.match(r"torch\S*\+cpu ", line)}
    assert hashed == {*pins.findall((ROOT / "requirements.txt").read_text()), f"uv=={UV_VERSION}"}


def test_help_and_unknown_options(clone: Clone) -> None:
    assert "Usage: scripts/setup" in clone.run("--help").stdout
    done = clone.run("--fast")
    assert done.returncode == 1
    assert "unknown option --fast" in done.stderr
    assert not clone.venv.exists()
