"""What ``scripts/image check`` runs inside of a container, beside its server: asks it all that a client would ask."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

URL = "http://127.0.0.1:8000"
DATA = Path("/data")
ROOT = Path("/opt/sam-app")


class ProbeError(RuntimeError):
    """Something is not as it should be; the message says what."""


def require(holds: bool, otherwise: str) -> None:
    """Raise unless it holds.

    Raises:
        ProbeError: If it does not.
    """
    if not holds:
        raise ProbeError(otherwise)


def get(path: str) -> str:
    """The text at a path of the server."""
    with urllib.request.urlopen(URL + path, timeout=60) as response:  # noqa: S310 - the server's own address
        return str(response.read().decode(errors="replace"))


def confined() -> str:
    """The server has no rights, no network, and nothing that it could change but its folders."""
    status = Path("/proc/self/status").read_text()
    capabilities = re.search(r"^CapEff:\s*(\w+)", status, re.MULTILINE)
    require(os.getuid() == 10001 and os.getgid() == 10001, f"it runs as {os.getuid()}:{os.getgid()}")
    require(capabilities is not None and int(capabilities[1], 16) == 0, "it has capabilities")
    interfaces = [name for _, name in socket.if_nameindex()]
    require(interfaces == ["lo"], f"there is a network: {interfaces}")
    for folder in (ROOT, ROOT / "apps" / "sam_app", Path("/etc"), Path("/usr/bin")):
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        raise ProbeError(f"{folder} can be written")
    first = Path("/proc/1/comm").read_text().strip()
    require(first in ("tini", "docker-init", "catatonit"), f"process 1 is {first}")
    return f"user {os.getuid()}, no capabilities, {interfaces[0]} alone, read-only root, process 1 is {first}"


def four_routes() -> str:
    """A real CT image goes through the four routes of REST."""
    from demo import walk

    with tempfile.TemporaryDirectory() as folder:
        walk(URL, DATA / "results", Path(folder))
    return "/segment_input_image/, /get_segmented_image/, /get_dicom_image/, /health_check/"


def viewer() -> str:
    """OHIF's page is there, with the files of this server that it names; so are the other pages."""
    page = get("/ohif/")
    require("OHIF" in page, "/ohif/ is not OHIF's page")
    named = re.findall(r'(?:src|href)="([^"#]+)"', page)
    sizes = {name: len(get(name if name.startswith("/") else f"/ohif/{name}")) for name in named if "//" not in name}
    scripts = [name for name in sizes if name.endswith(".js")]
    require(bool(scripts) and all(sizes[name] > 100 for name in scripts), f"OHIF's scripts are not there: {sizes}")
    require("<title>" in get("/sam/") and "openapi" in get("/docs"), "the pages /sam/ and /docs are not there")
    return f"/ohif/ with {len(sizes)} files, /sam/, /docs"


def client() -> str:
    """MONAI Label's own client gets a mask by a click, and one of a volume."""
    from monailabel.client.client import MONAILabelClient

    with tempfile.TemporaryDirectory() as folder:
        monailabel = MONAILabelClient(URL, tmpdir=folder)
        models = monailabel.info()["models"]
        require({"sam_tiny", "sam_tiny_3d"} <= set(models), f"the models are {list(models)}")
        sample = monailabel.next_sample("first", {})["id"]
        click = {"foreground": [[64, 64, 0]], "result_extension": ".nrrd"}
        mask, facts = monailabel.infer("sam_tiny", "ct_spine", click)
        size = Path(mask).stat().st_size
    require(size > 0 and facts["model"] == "sam_tiny", f"the answer is {size} bytes with {facts}")
    return f"next sample {sample}, a mask of {size} bytes of ct_spine, predicted IoU {facts['scores'][0]:.3f}"


def kept() -> str:
    """Results, the audit log and the bill of materials are where they belong."""
    audit = (DATA / "audit" / "audit.jsonl").read_text().splitlines()
    results = list((DATA / "results").glob("[0-9]*/manifest.json"))
    networks = list((DATA / "model" / "openvino").glob("*-float32-*"))
    require(len(audit) >= 2 and len(results) == 1, f"{len(audit)} lines of audit, {len(results)} results")
    require(
        len(networks) == 1 and networks[0].is_symlink(),
        "a model was converted that the image should have",
    )
    sbom = json.loads((ROOT / "sbom.cdx.json").read_text())
    require(sbom["bomFormat"] == "CycloneDX" and len(sbom["components"]) > 50, "the bill of materials is not whole")
    return f"{len(audit)} lines of audit, {len(results)} result, {len(sbom['components'])} components in the SBOM"


CHECKS: tuple[Callable[[], str], ...] = (confined, four_routes, viewer, client, kept)


def main() -> int:
    """Run all checks; 0 if all hold, else 1."""
    failed = 0
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        try:
            print(f"  ok      {name}: {check()}", flush=True)
        except Exception as error:  # each is to be reported, whatever it is
            failed += 1
            print(f"  FAILED  {name}: {type(error).__name__}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
