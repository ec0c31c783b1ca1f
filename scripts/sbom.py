"""A software bill of materials (CycloneDX 1.6) of installed packages or of wheels. Needs the standard library alone."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import sysconfig
import uuid
import zipfile
from datetime import UTC, datetime
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from package_licences import UNKNOWN, Package, packages

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "apps" / "sam_app" / "model"

FOLLOWER = ROOT / "apps" / "sam_app" / "lib" / "sam" / "volume" / "follower.safetensors"
"""The weights that are part of the app itself."""

Component = dict[str, Any]

_OHIF = "monailabel/endpoints/static/ohif/"
_OHIF_VERSION = re.compile(rb'versionNumber = "([0-9][^"]*)"')


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/sbom",
        description="Writes a software bill of materials (CycloneDX 1.6, JSON): packages with versions, licences and, "
        "for wheels, SHA-256; checkpoints; OHIF. The same input gives the same bytes if SOURCE_DATE_EPOCH is set.",
    )
    parser.add_argument(
        "folders",
        metavar="FOLDER",
        type=Path,
        nargs="*",
        help="wheels, or installed packages (site-packages); without it those of this Python",
    )
    parser.add_argument("--models", metavar="FOLDER", type=Path, default=MODELS, help="the checkpoints' folder")
    parser.add_argument("--output", metavar="FILE", type=Path, help="where to write it, instead of standard output")
    return parser


def bill_of_materials(folders: list[Path], checkpoints: list[Path]) -> str:
    """Make the bill of materials.

    Args:
        folders: Of wheels, or of installed packages.
        checkpoints: Files of the models.

    Returns:
        CycloneDX in JSON; its time is ``SOURCE_DATE_EPOCH`` or now, its serial number follows from the content.

    Raises:
        ValueError: If a folder has no packages.
    """
    from lib.version import VERSION

    found = packages(folders)
    components = [_package(package) for package in found]
    components += [_model(path) for path in sorted(checkpoints)]
    follower = {"type": "machine-learning-model", "bom-ref": "model:follower", "name": FOLLOWER.stem}
    components.append({**follower, **_licence("MIT"), **_sha256(FOLLOWER)})
    components += [ohif for package in found if package.name == "monailabel" for ohif in _ohif(package)]
    app = {"type": "application", "bom-ref": "sam-app", "name": "sam-app", "version": VERSION, **_licence("MIT")}
    names = {package.name: _purl(package) for package in found}
    depends = [{"ref": "sam-app", "dependsOn": sorted(component["bom-ref"] for component in components)}]
    depends += [
        {"ref": _purl(package), "dependsOn": sorted(names[name] for name in package.requires if name in names)}
        for package in found
    ]
    moment = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH") or datetime.now(UTC).timestamp()), UTC)
    body = {
        "metadata": {
            "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {"components": [{"type": "application", "name": "scripts/sbom", "version": VERSION}]},
            "component": app,
        },
        "components": components,
        "dependencies": depends,
    }
    content = sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    head = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, content)}",
        "version": 1,
    }
    return json.dumps({**head, **body}, indent=1) + "\n"


def _package(package: Package) -> Component:
    component = {
        "type": "library",
        "bom-ref": _purl(package),
        "name": package.name,
        "version": package.version,
        "purl": _purl(package),
        **_licence(package.licence),
    }
    if package.file.is_file():
        component |= _sha256(package.file)
    if package.homepage:
        component["externalReferences"] = [
            {"type": "website", "url": quote(package.homepage, safe=":/?#[]@!$&'()*+,;=%")}
        ]
    return component


def _model(path: Path) -> Component:
    from lib.sam.models.registry import MODELS as SPECS

    spec = next((spec for spec in SPECS.values() if spec.checkpoint == path.name), None)
    name, licence = (path.stem, UNKNOWN) if spec is None else (spec.name, spec.license)
    kind = {"type": "machine-learning-model", "bom-ref": f"model:{name}", "name": name}
    return {**kind, **_licence(licence), **_sha256(path)}


def _ohif(package: Package) -> list[Component]:
    """The viewer that MONAI Label's package holds, built for the browser."""
    if package.file.is_file():
        with zipfile.ZipFile(package.file) as wheel:
            names = [name for name in wheel.namelist() if re.search(rf"{_OHIF}app\.bundle\.[^/]*js$", name)]
            bundles = [wheel.read(name) for name in names]
    else:
        bundles = [path.read_bytes() for path in (package.file / _OHIF).glob("app.bundle.*js")]
    versions = [match[1].decode() for bundle in bundles if (match := _OHIF_VERSION.search(bundle))]
    return [
        {"type": "application", "bom-ref": "ohif", "name": "OHIF Viewer", "version": version, **_licence("MIT")}
        for version in versions[:1]
    ]


def _purl(package: Package) -> str:
    return f"pkg:pypi/{package.name}@{quote(package.version, safe='')}"


def _licence(expression: str) -> Component:
    return {} if expression == UNKNOWN else {"licenses": [{"expression": expression}]}


def _sha256(path: Path) -> Component:
    with path.open("rb") as file:
        return {"hashes": [{"alg": "SHA-256", "content": file_digest(file, "sha256").hexdigest()}]}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    arguments = make_parser().parse_args(argv)
    sys.path.insert(0, str(ROOT / "apps" / "sam_app"))  # also without scripts/sbom, as in an image's build
    from lib.sam.models.registry import MODELS as SPECS

    known = [arguments.models / spec.checkpoint for spec in SPECS.values()]
    try:
        text = bill_of_materials(
            arguments.folders or [Path(sysconfig.get_path("purelib"))], [path for path in known if path.is_file()]
        )
    except ValueError as error:
        print(f"scripts/sbom: {error}", file=sys.stderr)
        return 1
    if arguments.output:
        arguments.output.write_text(text)
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
