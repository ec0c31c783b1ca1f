"""The Python client's notebook and its tutorial run from top to bottom at a real server."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lib.server.auth.api_keys import make_key
from lib.server.auth.key_file import KeyFile
from sample_studies import fill
from support.series import ACQUISITIONS, write_series
from support.server_process import REPOSITORY, running_server

pytestmark = [pytest.mark.server, pytest.mark.slow]

CLIENT = REPOSITORY / "clients" / "python"
NOTEBOOK = CLIENT / "tour.ipynb"
TUTORIAL = REPOSITORY / "docs" / "python.md"
PICTURES = REPOSITORY / "e2e-artefacts" / "notebook"
RUN = "from nbclient.cli import main; main()"


@dataclass
class Place:
    """A folder with the samples, and a server of these, with a key of one who may annotate."""

    folder: Path
    url: str
    key: str

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run Python in the folder, with the client and nothing of this user's settings."""
        told = {"SAM_APP_URL": self.url, "SAM_APP_KEY": self.key, "PYTHONPATH": str(CLIENT / "src")}
        home = {"HOME": str(self.folder / "home"), "MPLCONFIGDIR": str(self.folder / "matplotlib")}
        environment = {**os.environ, **home, **told}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder, env=environment, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("notebook")
    fill(folder / "studies")
    key, entry = make_key("notebook", ["user", "annotator"], None)
    KeyFile(folder / "keys.json").add(entry)
    options = ("models", "sam_tiny", "api_keys", str(folder / "keys.json"))
    with running_server(folder, *options, studies=folder / "studies") as server:
        yield Place(folder, server.url, key)
        assert "Traceback" not in server.log.read_text(errors="replace")


def outputs(notebook: Path) -> list[dict]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", ())]


def test_the_notebook_runs_and_shows_pictures(place):
    done = place.run("-c", RUN, "--timeout=120", f"--output={place.folder / 'run'}", NOTEBOOK)
    assert done.returncode == 0, done.stderr
    shown = outputs(place.folder / "run.ipynb")
    assert [output for output in shown if output["output_type"] == "error"] == []
    data = [output.get("data", {}) for output in shown]
    said = "".join("".join(output.get("text", output.get("data", {}).get("text/plain", ""))) for output in shown)
    assert "Dice 0.9" in said and "{'draft': {1: 'posterior fossa'}}" in said and "422 the point (5000, 1)" in said
    pictures = [base64.b64decode(one["image/png"]) for one in data if "image/png" in one]
    assert len(pictures) == 3 and all(len(picture) > 20_000 for picture in pictures)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        (PICTURES / f"picture-{number}.png").write_bytes(picture)


def test_the_notebook_is_kept_without_what_it_showed():
    assert outputs(NOTEBOOK) == []


def test_the_tutorial_s_lines_run_when_they_are_pasted(place):
    write_series(place.folder / "series", ACQUISITIONS[0])
    blocks = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)
    here = "\n".join(blocks).replace('"http://127.0.0.1:8000"', f"{place.url!r}, {place.key!r}")
    checks = [
        "import json",
        "found = dict(areas=result.areas, better=better.areas, whole=int(whole.sum()), second=int(second.sum()))",
        "found.update(overlay=overlay.shape, volume=volume.mask.shape, voxels=int(volume.mask.sum()))",
        "print(json.dumps(found))",
    ]
    (place.folder / "tutorial.py").write_text("\n".join([here, *checks]))
    done = place.run("tutorial.py")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert 20_000 < found["areas"][0] < 30_000 and found["better"] == [found["whole"]] and found["second"] > 0
    assert found["overlay"] == [512, 512, 3] and found["volume"] == [20, 88, 104] and found["voxels"] > 0
    assert "422 the point (5000, 1)" in done.stdout
    for name, start in (("segmentation.dcm", b"DICM"), ("object.nrrd", b"NRRD")):
        assert start in (place.folder / name).read_bytes()[:132]
