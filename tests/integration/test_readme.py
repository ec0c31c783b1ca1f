"""README's ``curl`` lines do what README says when they are pasted, but for the port."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from sample_studies import fill

pytestmark = pytest.mark.server

README = Path(__file__).resolve().parents[2] / "README.md"


def rest_lines() -> str:
    """The block of ``curl`` lines, to be pasted as it stands."""
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = (block for block in blocks if "curl" in block)
    return str(found)


def test_the_curl_lines(server, tmp_path):
    fill(tmp_path / "studies")
    lines = rest_lines().replace("http://127.0.0.1:8000", server.url).replace("curl ", "curl -fsS ")
    done = subprocess.run(
        ["bash", "-euc", lines], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "ok"

    image = np.asarray(Image.open(tmp_path / "studies" / "ct_head.png"))
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert mask.shape == image.shape and mask[350, 250] == 1 and mask[200, 170] == 0
    assert np.asarray(Image.open(tmp_path / "overlay.png")).shape == (*image.shape, 3)
    files = ("secondary_capture.dcm", "segmentation.dcm")
    names = [pydicom.dcmread(tmp_path / name).SOPClassUID.name for name in files]
    assert names == ["Secondary Capture Image Storage", "Segmentation Storage"]
