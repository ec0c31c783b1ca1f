"""Studies behind a real server: odd values, a full disk and a second server lose nothing and stop nothing."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import requests

from support.phantoms import BALL_AFFINE, ball_volume
from support.server_process import Server, command, free_port, running_server
from support.small_disk import mounted_disk

pytestmark = pytest.mark.server

BALL = gzip.compress(nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_bytes())
ODD_LIST = """{"name": 1, "description": "d", "objects": {
    "a": {"image": {"ext": ".nii.gz", "info": {"strategy": [1], "ts": "late", "x": NaN, "kept": 1}}, "labels": []},
    "b": {"image": {"ext": ".nii.gz", "info": {"y": "\\ud800"}},
          "labels": {"final": {"ext": ".nii.gz", "info": {"ts": "x", "params": {"scores": [Infinity]}}}}},
    "c": 3}}"""
SWEEP = [
    *("/datastore/", "/datastore/?output=all", "/info/", "/datastore/dataset", "/health_check/"),
    *(f"/datastore/image/info?image={image}" for image in "abc"),
    "/datastore/label/info?label=b&tag=final",
]
ODD_INFOS = [
    *(
        '{"a": NaN}',
        '{"a": [Infinity]}',
        '{"a": 1e999}',
        '{"a": "\\ud800"}',
        '{"\\udfff": 1}',
        '{"a": 12345678901234567890}',
    ),
    *('{"a":' + "[" * 40 + "]" * 40 + "}", '{"a":' + "[" * 50_000 + "]" * 50_000 + "}", '{"a": ' + "9" * 5000 + "}"),
    *('{"strategy": [1]}', '{"strategy": {"random": 1}}', '{"strategy": {"random": {"ts": "x"}}}', '{"ts": "x"}'),
    *('{"name": 5}', '{"name": null}', "[]", "5", "{", '{"a": "' + "x" * 1_048_570 + 'ä"}'),
]


def label(seed: int) -> bytes:
    """A label of some 100 kB, on the voxels of the ball."""
    voxels = np.random.default_rng(seed).integers(0, 255, (64, 48, 16), np.uint8)
    return gzip.compress(nibabel.Nifti1Image(voxels, BALL_AFFINE).to_bytes(), mtime=0)


def put(server: Server, path: str, **kwargs: object) -> requests.Response:
    return requests.put(server.url + path, timeout=60, **kwargs)


def check_sweep(server: Server) -> None:
    for path in SWEEP:
        assert server.get(path).status_code == 200, path
    for strategy in ("first", "random", "uncertainty"):
        assert server.post(f"/activelearning/{strategy}", json={}).status_code == 200, strategy


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """A server on studies whose list holds odd values."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "studies" / "labels" / "final").mkdir(parents=True)
    for name in "abc":
        (folder / "studies" / f"{name}.nii.gz").write_bytes(BALL)
    (folder / "studies" / "labels" / "final" / "b.nii.gz").write_bytes(label(0))
    (folder / "studies" / "datastore_v2.json").write_text(ODD_LIST)
    with running_server(folder) as running:
        yield running


def test_odd_values_that_are_stored_already_are_left_out_and_named(server):
    check_sweep(server)
    assert server.get("/datastore/image/info?image=a").json()["kept"] == 1
    assert (server.studies / "datastore_v2.json.damaged").read_text() == ODD_LIST
    assert server.get("/datastore/?output=all").json()["left_out"] == {}
    log = server.log.read_text(errors="replace")
    assert log.count("invalid values of the list are dropped") == 1 and "image info: strategy is not" in log


@pytest.mark.parametrize("info", ODD_INFOS, ids=range(len(ODD_INFOS)))
def test_odd_values_are_refused_before_anything_is_kept(server, info):
    before = (server.studies / "datastore_v2.json").read_bytes()
    answers = {
        "image info": put(server, "/datastore/image/info?image=a", data={"info": info}),
        "label info": put(server, "/datastore/label/info?label=b&tag=final", data={"info": info}),
        "updatelabelinfo": put(server, "/datastore/updatelabelinfo?label=b&tag=final", data={"params": info}),
        "label": put(
            server, "/datastore/label?image=a", files={"label": ("l.nii.gz", label(1))}, data={"params": info}
        ),
        "image": put(server, "/datastore/image?image=n", files={"file": ("n.nii.gz", BALL)}, data={"params": info}),
    }
    if not {"strategy", "ts", "name"} & {word for word in ("strategy", "ts", "name") if f'{{"{word}"' in info}:
        params = info.replace("{", '{"foreground": [[30, 24, 7]], "save_label": true, ', 1) if info != "{" else info
        answers["infer"] = server.post("/infer/sam_tiny?image=a", data={"params": params})
        headers = {"Content-Type": "application/json"}
        answers["batch"] = server.post("/batch/infer/sam_tiny", data=info.encode(), headers=headers)
        answers["next"] = server.post("/activelearning/random", data=info.encode(), headers=headers)
    for route, answer in answers.items():
        assert answer.status_code in (400, 413, 422), (route, answer.status_code, answer.text[:200])
    assert (server.studies / "datastore_v2.json").read_bytes() == before
    check_sweep(server)


def test_a_second_server_on_the_same_studies_is_refused_in_one_line(server, tmp_path):
    second = subprocess.run(
        command(server.studies, free_port(), "results", str(tmp_path / "results"), "audit_log", str(tmp_path / "a")),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    said = [line for line in (second.stdout + second.stderr).splitlines() if "Cannot start" in line]
    assert second.returncode != 0 and len(said) == 1 and "another server uses" in said[0]
    assert "Traceback" not in second.stdout + second.stderr
    check_sweep(server)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 2 MiB of its own."""
    with mounted_disk(tmp_path / "small disk", 2) as disk:
        yield disk


def test_a_full_disk_leaves_the_label_before_and_what_is_noted_of_it(tmp_path, small_disk):
    (small_disk / "a.nii.gz").write_bytes(BALL)
    final = "/datastore/label?image=a&tag=final"
    with running_server(tmp_path / "run", studies=small_disk) as server:
        kept = {"label": ("l.nii.gz", label(1))}
        assert put(server, final, files=kept, data={"params": '{"version": 1}'}).status_code == 200
        before = {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
        pages = -(-len(label(2)) // 4096)
        for room in (0, 20_000, 4096 * pages):  # nothing; a part of a label; a label, but not the list as well
            filling = small_disk / "labels" / ".filling"
            with filling.open("wb", buffering=0) as file:
                while True:
                    try:
                        file.write(bytes(4096))
                    except OSError:
                        break
                file.truncate(max(0, file.tell() - room))
            for refused in (
                put(server, final, files={"label": ("l.nii.gz", label(2))}, data={"params": '{"version": 2}'}),
                put(server, final, files={"label": ("l.nii", gzip.decompress(label(2)))}, data={"params": "{}"}),
                put(server, "/datastore/image?image=b", files={"file": ("b.nii", gzip.decompress(BALL))}),
                put(server, "/datastore/image/info?image=a", data={"info": json.dumps({"x": "x" * 100_000})}),
            ):
                assert refused.status_code == 507 and "no space" in refused.json()["detail"], refused.text
            assert server.get("/datastore/label?label=a&tag=final").content == kept["label"][1]
            assert server.get("/datastore/label/info?label=a&tag=final").json()["version"] == 1
            filling.unlink()
            assert {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()} == before
        later = put(server, final, files={"label": ("l.nii.gz", label(3))}, data={"params": '{"version": 3}'})
        assert later.status_code == 200 and server.get("/datastore/?output=all").json()["left_out"] == {}
        assert "Traceback" not in server.log.read_text(errors="replace")
    with running_server(tmp_path / "again", studies=small_disk) as server:
        assert server.get("/datastore/label?label=a&tag=final").content == label(3)
        assert server.get("/datastore/label/info?label=a&tag=final").json()["version"] == 3
