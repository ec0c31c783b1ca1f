"""scripts/start before the server runs: what it refuses, and the line that it offers to paste."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import serve


def test_a_taken_port_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve.main(["--port", str(port), "--studies", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert f"port {port} on 127.0.0.1 cannot be used (Address already in use)" in message
    assert "--port" in message


def test_itk_snap_s_port_is_looked_at_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve.main(["--port", "0", "--itksnap", str(port), "--studies", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"port {port} on 127.0.0.1 cannot be used (Address already in use)" in said and "--itksnap" in said
    port = serve.free_port("127.0.0.1", 0)
    assert serve.main(["--port", str(port), "--itksnap", str(port), "--studies", str(tmp_path)]) == 2
    assert "is the server's own port" in capsys.readouterr().err
    assert serve.main(["--port", "0", "--itksnap", "0", "--conf", "itksnap_port", "1"]) == 2
    assert "given twice" in capsys.readouterr().err


def test_itk_snap_s_port_is_an_option_of_the_app() -> None:
    conf: dict[str, str] = {}
    port = serve.itksnap_port(0, conf, "127.0.0.1", 8000)
    assert port > 0 and conf == {"itksnap_port": str(port)}
    assert serve.itksnap_port(None, conf, "127.0.0.1", 8000) == port
    assert serve.itksnap_port(None, {}, "127.0.0.1", 8000) == 0
    assert f"port {port}" in serve.where_to_go_next("http://127.0.0.1:8000", "http://pacs/dicom-web", port)


@pytest.mark.parametrize("port", ["-1", "65536", "99999"])
def test_a_number_that_is_no_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main(["--port", port]) == 2
    assert "1 to 65535" in capsys.readouterr().err


def test_port_0_becomes_a_free_one() -> None:
    assert serve.free_port("127.0.0.1", 0) > 0


def test_an_unknown_model_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--models", "sam_tiny,sam_huge"], ["--conf", "models", "sam_huge"]):
        assert serve.main(options) == 2
        assert "no model 'sam_huge'; the models are: sam_tiny, sam_vit_b" in capsys.readouterr().err


def test_models_given_twice_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main(["--models", "sam_tiny", "--conf", "models", "sam_tiny"]) == 2
    assert "given twice" in capsys.readouterr().err


def test_a_studies_folder_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert serve.main(["--port", "0", "--studies", str(tmp_path / "typo")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


def test_a_file_is_no_studies_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "image.png").touch()
    assert serve.main(["--port", "0", "--studies", str(tmp_path / "image.png")]) == 2
    assert "is a file, not a folder" in capsys.readouterr().err


def test_an_app_folder_that_cannot_be_written_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(serve, "APP_FOLDER", tmp_path / "file" / "app")
    assert serve.main(["--port", "0", "--studies", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "cannot be written (Not a directory)" in said and said.count("\n") == 1


def test_a_given_studies_folder_is_not_filled(tmp_path: Path) -> None:
    assert serve.studies_of(str(tmp_path)) == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_default_studies_folder_is_filled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "DEFAULT_STUDIES", tmp_path / "studies")
    assert serve.studies_of(None) == str(tmp_path / "studies")
    assert "ct_head.png" in capsys.readouterr().out
    (tmp_path / "studies" / "ct_head.png").unlink()
    serve.studies_of(None)
    assert capsys.readouterr().out == ""


def test_a_dicomweb_url_is_passed_on() -> None:
    assert serve.studies_of("https://pacs.example/dicom-web") == "https://pacs.example/dicom-web"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("pacs.local", "http://pacs.local:80"),
    ],
)
def test_the_url_is_one_that_a_client_here_can_use(host: str, url: str) -> None:
    assert serve.base_url(host, 80) == url


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_line_works_as_it_stands(tmp_path: Path) -> None:
    """Pasted into a shell, it posts the file and the rectangle and fetches the picture of that timestamp."""
    seen: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(b'{"timestamp": 1732288000.12}')

        def do_GET(self) -> None:
            self._answer(self.path.encode())

        def _answer(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    image = tmp_path / "a b" / 'it\'s "one"; really, $HOME.png'
    image.parent.mkdir()
    image.write_bytes(b"these are the pixels")
    rectangle = {"startX": 1, "startY": 2, "width": 3, "height": 4}
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        line = serve.curl_line(f"http://127.0.0.1:{server.server_port}", image, rectangle)
        pasted = line.replace("curl ", "curl --noproxy '*' ")
        subprocess.run(["sh", "-c", pasted], check=True, cwd=tmp_path, timeout=30)
        server.shutdown()
    assert "\n" not in line
    assert (tmp_path / "segmented.png").read_bytes() == b"/get_segmented_image/1732288000.12"
    assert b"these are the pixels" in seen[0]
    assert json.dumps({"rectangles": [rectangle]}, separators=(",", ":")).encode() in seen[0]
