"""``docs/tutorial.md``, step by step: what it tells to do leads to what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from sample_studies import fill
from support.sam_page import SamPage
from support.server_process import Server, running_server

pytestmark = [pytest.mark.server, pytest.mark.e2e]

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def started(tmp_path_factory, chromium) -> Iterator[Server]:
    """A server with the images of ``scripts/start``."""
    folder = tmp_path_factory.mktemp("tutorial")
    fill(folder / "studies")
    with running_server(folder / "server", "models", "sam_tiny", studies=folder / "studies") as server:
        yield server


def blocks(language: str, server: Server) -> list[str]:
    """The tutorial's lines to paste, for this server."""
    found = re.findall(rf"```{language}\n(.*?)```", TUTORIAL, re.DOTALL)
    return [block.replace("http://127.0.0.1:8000", server.url) for block in found]


def run(server: Server, *command: str) -> str:
    """Run it in the folder that holds ``studies``; answers what is printed."""
    done = subprocess.run(
        command,
        cwd=server.studies.parent,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "clients" / "python" / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tutorial(chromium, started):
    opened = SamPage(chromium, started)
    page = opened.page
    page.get_by_role("button", name="Images on the server…").click()
    page.get_by_role("dialog").get_by_role("button", name="ct_head").click()
    expect(page.locator("canvas#image")).to_have_attribute("aria-label", re.compile("^ct_head, "))
    page.get_by_label("Label", exact=True).fill("posterior fossa")
    opened.choose("Box")
    opened.drag(132, 228, 380, 406)
    assert "predicted IoU" in opened.wait_until_idle("Mask of")
    boxed = opened.canvas("mask")[..., 3] > 0
    opened.choose("Negative")
    for place in ((175, 275), (340, 275)):
        opened.click(*place)
        opened.wait_until_idle("Mask of")
    corrected = opened.canvas("mask")[..., 3] > 0
    assert 0.9 < np.count_nonzero(corrected) / np.count_nonzero(boxed) < 1
    page.get_by_role("button", name="Save as final").click()
    expect(page.get_by_role("status").first).to_have_text("Saved as final: posterior fossa")
    expect(page.get_by_role("button", name="Load final")).to_be_visible()
    opened.close()
    assert opened.complaints == []

    stored = np.asarray(Image.open(started.studies / "labels" / "final" / "ct_head.png"))
    assert np.array_equal(stored == 1, corrected) and set(np.unique(stored)) == {0, 1}
    _, curl = blocks("sh", started)
    run(started, "bash", "-euc", curl)
    label = np.asarray(nibabel.load(started.studies.parent / "label.nii.gz").dataobj)
    assert np.array_equal(label[..., 0].T, stored)
    listing, segmenting = blocks("python", started)
    printed = run(started, sys.executable, "-c", listing).splitlines()
    (said,) = re.findall(r"^It prints `(.+?)`", TUTORIAL, re.MULTILINE)
    assert sorted(printed) == [said, "ct_spine {}", "mr_joint {}"]
    assert np.array_equal(np.asarray(Image.open(started.studies.parent / "label.png")), stored)
    before, after = map(int, re.findall(r"\d+", run(started, sys.executable, "-c", segmenting)))
    assert 0.9 < after / before < 1
