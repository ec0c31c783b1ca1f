"""``scripts/evaluate --server`` asks a real server by REST and gets what the engine answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from evaluation.main import main

pytestmark = [
    pytest.mark.server,
    pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning"),
]


def test_the_server_is_measured_as_the_engine_is(server, tmp_path, disc):
    image, mask = disc
    for name, array in (("images/one.png", image), ("masks/one_disc_0.png", (mask * 255).astype(np.uint8))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / name)
    arguments = [str(tmp_path), "--protocols", "box,clicks", "--pictures", "0"]
    assert main([*arguments, "--out", str(tmp_path / "engine")]) == 0
    assert main([*arguments, "--out", str(tmp_path / "server"), "--server", server.url]) == 0
    by_engine, by_server = (
        json.loads((tmp_path / name / "results.json").read_text())["answers"] for name in ("engine", "server")
    )
    assert len(by_engine) == len(by_server) == 4 + 8
    for a, b in zip(by_engine, by_server, strict=True):
        assert a["row"] == b["row"] and a["dice"] == pytest.approx(b["dice"], abs=1e-6)
    manifest = json.loads((tmp_path / "server" / "manifest.json").read_text())
    assert manifest["through"] == server.url and len(manifest["checkpoint_sha256"]) == 64
