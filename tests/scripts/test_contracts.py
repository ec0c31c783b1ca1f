"""Who may import whom: an import that no contract of pyproject.toml allows is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def app_folder(tmp_path_factory) -> Path:
    """A copy of the app's modules."""
    folder = tmp_path_factory.mktemp("contracts")
    shutil.copytree(REPOSITORY / "apps" / "sam_app" / "lib", folder / "lib")
    return folder


def broken_contracts(app_folder: Path) -> list[str]:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--config", REPOSITORY / "pyproject.toml"],
        cwd=app_folder,
        env={**os.environ, "PYTHONPATH": str(app_folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Contracts: " in done.stdout, done.stdout + done.stderr
    return [line.partition(" BROKEN")[0] for line in done.stdout.splitlines() if " BROKEN" in line]


@pytest.mark.parametrize(
    ("module", "imported", "contract"),
    [
        ("sam/prompts.py", "lib.imaging.palette", "Rooms: each imports only those below it"),
        ("server/http/head.py", "lib.server.rest.timestamps", "Rooms of the server: likewise"),
        ("imaging/formats/nrrd.py", "lib.imaging.dicom.lut", "Rooms of imaging: likewise"),
        ("imaging/views.py", "monailabel.config", "What could outlive MONAI Label does not import it"),
        ("sam/prompts.py", "pydicom", "The engine knows nothing of HTTP, DICOM and MONAI"),
        ("imaging/views.py", "fastapi", "Imaging knows nothing of HTTP"),
        ("server/page/routes.py", "main", "Nothing imports the app's main module"),
        ("sam/models/registry.py", "lib.sam.engine", "No room imports one that imports it"),
    ],
)
def test_an_import_against_the_contracts_is_found(app_folder, module, imported, contract):
    path = app_folder / "lib" / module
    text = path.read_text()
    path.write_text(f"{text}\nimport {imported}\n")
    try:
        assert contract in broken_contracts(app_folder)
    finally:
        path.write_text(text)
