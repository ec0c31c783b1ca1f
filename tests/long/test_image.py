"""An image is really built from Debian packages, checked as by a user, and saved; many minutes, 25 GB of disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASE = "localhost/sam-app-test-base"
TAG = "localhost/sam-app-test:cpu"

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def podman(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The environment for podman, which may itself run in a container that cannot raise limits."""
    missing = [
        tool
        for tool in ("podman", "runc", "debootstrap")
        if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin")
    ]
    if missing or os.getuid() != 0:
        pytest.skip(f"needs root and Debian's podman, runc and debootstrap; missing: {' '.join(missing) or 'root'}")
    folder = tmp_path_factory.mktemp("podman")
    (folder / "containers.conf").write_text(
        '[engine]\nruntime = "runc"\n[containers]\ndefault_ulimits = ["nofile=10000:10000", "nproc=4096:4096"]\n'
    )
    yield {**os.environ, "CONTAINERS_CONF": str(folder / "containers.conf"), "PYTHON": sys.executable}
    subprocess.run(["podman", "rmi", "--force", TAG, BASE], capture_output=True, check=False)


@pytest.fixture(scope="module")
def base(podman, tmp_path_factory) -> str:
    """A minimal Debian with Python, from this machine's own source and with its certificates."""
    root = tmp_path_factory.mktemp("base") / "root"
    packages = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", packages, "bookworm", root, "http://deb.debian.org/debian"], check=True
    )
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs/ca-certificates.crt")
    with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(["podman", "import", "-", BASE], stdin=tar.stdout, env=podman, check=True)
    shutil.rmtree(root)
    return BASE


def image(podman: dict[str, str], *words: str) -> str:
    """What scripts/image prints, which must succeed."""
    command = [str(ROOT / "scripts" / "image"), *words, "--engine", "podman", "--tag", TAG]
    done = subprocess.run(command, env=podman, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def test_an_image_is_built_checked_and_saved(podman, base, tmp_path) -> None:
    assert "Built " in image(podman, "build", "--base", base)
    checked = image(podman, "check")
    assert "FAILED" not in checked and checked.endswith("is as it should be\n")
    for check in ("healthy after", "four routes", "viewer", "client", "kept", "stopped in"):
        assert re.search(rf"^  ok      {check}", checked, re.MULTILINE), check
    saved = tmp_path / "image.tar"
    image(podman, "save", str(saved))
    with saved.open("rb") as file:
        assert (tmp_path / "image.tar.sha256").read_text().split()[0] == hashlib.file_digest(file, "sha256").hexdigest()
    with tarfile.open(saved) as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))
        assert manifest["RepoTags"] == [TAG]
        assert "Healthcheck" in json.load(archive.extractfile(manifest["Config"]))["config"]
    subprocess.run(["podman", "rmi", TAG], env=podman, check=True)
    subprocess.run(["podman", "load", "--input", saved], env=podman, check=True)
    help_text = ["podman", "run", "--rm", "--network", "none", TAG, "scripts/keys", "--help"]
    assert "scripts/keys" in subprocess.run(help_text, env=podman, capture_output=True, text=True, check=True).stdout
