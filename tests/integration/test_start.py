"""How a server starts, and how it does not."""

from __future__ import annotations

import subprocess

import pytest

from support.server_process import command, free_port, running_server

pytestmark = pytest.mark.server


def test_it_starts_and_works_without_reaching_another_machine(server):
    """The shared server runs with every outbound connection refused; nothing of it ever tried one."""
    assert server.get("/info/").status_code == 200
    assert "OUTBOUND REFUSED" not in server.log.read_text(errors="replace")


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        (("models", "sam_tiny,sam_vit_h"), "scripts/weights download sam_vit_h"),
        (("model_specs", "ours.yaml"), "Cannot start: --conf model_specs: ours.yaml cannot be read: No such file"),
        (("max_quue", "3"), "there is no option 'max_quue'; did you mean max_queue?"),
    ],
)
def test_it_says_why_it_does_not_start(tmp_path, conf, said):
    done = subprocess.run(
        command(tmp_path / "studies", free_port(), "results", str(tmp_path / "results"), *conf),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("studies", "said"),
    [
        ("file", "cannot be read: Not a directory"),
        ("http://", "it must be like http://HOST:PORT"),
    ],
)
def test_studies_that_cannot_be_served_are_named_without_a_stack_trace(tmp_path, studies, said):
    (tmp_path / "file").touch()
    place = studies if studies.startswith("http") else str(tmp_path / studies)
    done = subprocess.run(
        command(place, free_port(), "results", str(tmp_path / "results")),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode != 0
    assert "Cannot start: " in done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_options_are_taken(tmp_path):
    conf = ("models", "sam_tiny", "max_upload_mb", "0.01", "labels", "cyst, stone", "cors_origins", "https://a.example")
    with running_server(tmp_path, *conf) as server:
        assert server.get("/info/").json()["labels"] == ["cyst", "stone"]
        too_large = server.segment(bytes(20_000), "{}")
        assert too_large.status_code == 413 and "0.01 MiB" in too_large.json()["detail"]

        def chunks():
            for _ in range(100):
                yield bytes(1000)

        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        chunked = server.post("/segment_input_image/", data=chunks(), headers=headers)
        assert chunked.status_code in (400, 413)
        allowed = server.get("/health_check/", headers={"Origin": "https://a.example"})
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        assert "access-control-allow-origin" not in server.get("/info/", headers={"Origin": "http://localhost"}).headers


def test_with_login_on_every_route_but_the_health_check_asks_who_is_there(tmp_path):
    with running_server(tmp_path, variables={"MONAI_LABEL_AUTH_ENABLE": "true"}) as server:
        assert server.get("/health_check/").status_code == 200
        assert server.segment(b"anything", None).status_code == 401
        assert server.post("/infer/sam_tiny?image=x", data={"params": "{}"}).status_code == 401
        for path in ("/get_segmented_image/1", "/get_dicom_image/1", "/info/"):
            assert server.get(path).status_code == 401, path
