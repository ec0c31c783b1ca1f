"""scripts/sbom: valid CycloneDX, of what is installed and of wheels, by a Python that has nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sbom
from package_licences import locked
from support.wheels import write_wheel

ROOT = Path(__file__).resolve().parents[2]


def made(*arguments: object, **environment: str) -> dict:
    """What the command writes, checked against the schema; by the Python that this environment was made with."""
    python = Path(sys.base_prefix) / "bin" / "python3"
    done = subprocess.run(
        [str(python), "-E", "-s", str(ROOT / "scripts" / "sbom.py"), *map(str, arguments)],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator  # here, as it takes seconds

    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(done.stdout)
    assert fault is None, fault
    return json.loads(done.stdout)


@pytest.mark.slow
def test_of_this_environment() -> None:
    from importlib.metadata import version
    from sysconfig import get_path

    made_of = made(get_path("purelib"))
    components = {component["name"]: component for component in made_of["components"]}
    assert {name for name in locked(ROOT / "requirements.txt") if not name.startswith(("nvidia", "cuda"))} - {
        "legacy-cgi",
        "triton",
    } <= components.keys()
    assert components["pydicom"]["version"] == version("pydicom")
    assert components["pydicom"]["licenses"] == [{"expression": "MIT"}]
    tiny = ROOT / "apps" / "sam_app" / "model" / "sam_tiny.safetensors"
    (digest,) = components["sam_tiny"]["hashes"]
    assert digest == {"alg": "SHA-256", "content": hashlib.sha256(tiny.read_bytes()).hexdigest()}
    assert components["follower"]["licenses"] == [{"expression": "MIT"}] and components["follower"]["hashes"]
    assert components["OHIF Viewer"]["version"].startswith("3.")
    requires = {one["ref"]: one["dependsOn"] for one in made_of["dependencies"]}
    assert components["numpy"]["purl"] in requires[components["highdicom"]["purl"]]


def test_of_wheels_the_same_bytes_each_time(tmp_path: Path) -> None:
    wheel = write_wheel(
        tmp_path, "torch", "2.15.0+cpu", metadata="Requires-Dist: numpy\nRequires-Dist: odd; extra == 'x'\n"
    )
    write_wheel(tmp_path, "numpy", "2.4.6", metadata="License-Expression: BSD-3-Clause\n")
    write_wheel(
        tmp_path, "monailabel", "0.8.5", files={f"{sbom._OHIF}app.bundle.1f.js": 'x;versionNumber = "3.10.0-beta.5";'}
    )
    when = {"SOURCE_DATE_EPOCH": "1790000000"}
    made_of = made(tmp_path, **when)
    assert made_of == made(tmp_path, **when)
    assert made_of["metadata"]["timestamp"] == "2026-09-21T14:13:20Z"
    components = {component["bom-ref"]: component for component in made_of["components"]}
    torch = components["pkg:pypi/torch@2.15.0%2Bcpu"]
    assert torch["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}]
    assert "licenses" not in torch
    assert components["ohif"]["version"] == "3.10.0-beta.5"
    assert {"ref": torch["bom-ref"], "dependsOn": ["pkg:pypi/numpy@2.4.6"]} in made_of["dependencies"]


def test_a_folder_without_packages_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sbom.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert "holds neither wheels nor installed packages" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_models_licence_is_that_of_its_publisher(tmp_path: Path) -> None:
    licences = {}
    for name in ("MedSAM2_latest.pt", "sam_vit_b_01ec64.pth"):
        (tmp_path / name).write_bytes(b"weights")
        component = sbom._model(tmp_path / name)
        licences[component["name"]] = component["licenses"]
    assert licences == {"medsam2": [{"expression": "CC-BY-SA-4.0"}], "sam_vit_b": [{"expression": "Apache-2.0"}]}
