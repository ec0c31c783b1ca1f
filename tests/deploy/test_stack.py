"""The stack of deploy/compose.yaml as processes: from a browser through TLS and the login to a mask, and by REST."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import ssl
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from PIL import Image
from playwright.sync_api import Browser

from phantom_series import ORGANS, SERIES
from support.chromium import WEBGL, require_chromium, running_chromium
from support.compose_stack import (
    DEPLOY,
    ComposeStack,
    compose_stack,
    require_caddy,
    require_orthanc,
    start_archive,
    start_front,
    start_server,
)
from support.ohif import OhifPage
from support.series import ACQUISITIONS, write_series
from support.server_process import REPOSITORY

pytestmark = [pytest.mark.server, pytest.mark.e2e, pytest.mark.slow]

NAME = "sam.hospital.example"
(STOMACH,) = (n for n, organ in enumerate(ORGANS) if organ.name == "stomach")
CT = SERIES[0]


@dataclass(frozen=True)
class Running:
    """The stack, and the keys of its users."""

    stack: ComposeStack
    keys: dict[str, str]

    @property
    def url(self) -> str:
        return f"https://{NAME}:{self.stack.ports['front']}"

    @property
    def authority(self) -> str:
        """The folder of Caddy's own CA."""
        return f"{self.stack.volume('caddy')}/caddy/pki/authorities/local"

    def trust(self) -> ssl.SSLContext:
        """What a machine has that was given the root of that CA, and no other."""
        return ssl.create_default_context(cafile=f"{self.authority}/root.crt")

    def connect(self) -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", self.stack.ports["front"]), timeout=30)
        return self.trust().wrap_socket(raw, server_hostname=NAME)


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Running]:
    """Begun in the order of README.md: archive, keys, server, front, images."""
    require_caddy()
    require_orthanc()
    require_chromium()
    with compose_stack(tmp_path_factory.mktemp("stack"), SAM_HOST=NAME) as stack:
        start_archive(stack)
        keys = {"anna": add_key(stack, "anna", "user", "annotator"), "guest": add_key(stack, "guest", "user")}
        start_server(stack)
        start_front(stack)
        fill_archive(stack)
        yield Running(stack, keys)


@pytest.fixture(scope="module", autouse=True)
def half_a_head(running) -> Iterator[ssl.SSLSocket]:
    """The first connection, whose request never gets whole; what it waits for passes while the other tests run."""
    with running.connect() as connection:
        connection.sendall(b"GET /health_check/ HTTP/1.1\r\n")
        yield connection


def add_key(stack: ComposeStack, name: str, *roles: str) -> str:
    keys = [sys.executable, REPOSITORY / "scripts/keys.py", "--file", stack.volume("keys") / "api_keys.json"]
    options = [word for role in roles for word in ("--role", role)]
    environment = {"PYTHONPATH": str(REPOSITORY / "apps/sam_app")}
    done = subprocess.run([*keys, "add", name, *options], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


def fill_archive(stack: ComposeStack) -> None:
    """As README.md has it: the file on the standard input of the server's Python."""
    environment = {
        **stack.environment("server"),
        "ARCHIVE_URL": f"http://127.0.0.1:{stack.ports['archive']}",
        "ARCHIVE_PASSWORD_FILE": str(stack.secrets / "archive_password"),
    }
    with (DEPLOY / "synthetic_torso.py").open() as script:
        done = subprocess.run(
            [sys.executable, "-"],
            stdin=script,
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == "The archive has 2 studies\n"


@pytest.fixture
def client(running) -> Iterator[httpx.Client]:
    """A program that trusts the CA of the stack and no other, and finds the front by its name."""
    with httpx.Client(
        base_url=f"https://127.0.0.1:{running.stack.ports['front']}",
        headers={"Host": NAME, "Authorization": f"Bearer {running.keys['anna']}"},
        verify=running.trust(),
        timeout=60,
    ) as client:
        client.event_hooks["request"] = [lambda request: request.extensions.update(sni_hostname=NAME)]
        yield client


@pytest.fixture(scope="module")
def browser(running) -> Iterator[Browser]:
    """Trusts what the CA of the stack signed; no other name than the stack's leads anywhere."""
    with open(f"{running.authority}/intermediate.crt", "rb") as file:
        key = x509.load_pem_x509_certificate(file.read()).public_key()
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    trusted = base64.b64encode(digest.finalize()).decode()
    flags = (
        f"--host-resolver-rules=MAP {NAME} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--ignore-certificate-errors-spki-list={trusted}",
    )
    with running_chromium(*WEBGL, *flags) as browser:
        yield browser


def picture() -> bytes:
    rows, columns = np.mgrid[:200, :240]
    grey = np.where((columns - 130) ** 2 + (rows - 90) ** 2 <= 40**2, 190, 70).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format="PNG")
    return buffer.getvalue()


def archive_line() -> str:
    """What README.md runs in the archive's container, with a zip file on its input."""
    line = re.search(r"exec -T archive sh -c \\\n    '(.*)'\n", (DEPLOY / "README.md").read_text())
    assert line
    return line[1]


def audit(running: Running) -> list[dict]:
    lines = (running.stack.volume("audit") / "audit.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_an_upload_by_rest_with_a_key(running, client):
    form = {
        "data": {"sam_input": '{"positive_points": [{"x": 130, "y": 90}]}'},
        "files": {"file": ("a.png", picture())},
    }
    answer = client.post("/segment_input_image/", headers={"X-Forwarded-For": "203.0.113.9"}, **form)
    assert answer.status_code == 200, answer.text
    timestamp = answer.json()["timestamp"]
    mask = client.get(f"/get_segmented_image/{timestamp}?view=mask")
    labels = np.asarray(Image.open(io.BytesIO(mask.content)))
    assert labels[90, 130] == 1 and labels[10, 10] == 0
    assert client.get(f"/get_dicom_image/{timestamp}").content[128:132] == b"DICM"
    assert (running.stack.volume("results") / f"{timestamp:.6f}" / "manifest.json").is_file()
    entry = next(line for line in reversed(audit(running)) if line["route"] == "/segment_input_image/")
    assert entry["user"] == "key:anna" and "203.0.113.9" not in json.dumps(entry)


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> list[Path]:
    """Of one more patient."""
    axial = next(one for one in ACQUISITIONS if one.name == "axial")
    return write_series(tmp_path_factory.mktemp("series"), axial)


def test_a_study_comes_into_the_archive_by_the_line_of_the_readme(running, client, series, tmp_path):
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for file in series[:2]:
            archive.write(file, file.name)
    with (tmp_path / "study.zip").open("rb") as archive:
        done = running.stack.run("archive", archive_line(), stdin=archive, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(client.get("/proxy/dicom/studies").json()) == 3


def test_an_annotator_stores_a_study_through_the_front_and_nobody_else(running, client, series):
    parts = [b"--x\r\nContent-Type: application/dicom\r\n\r\n" + file.read_bytes() + b"\r\n" for file in series]
    kind = {
        "Content-Type": 'multipart/related; type="application/dicom"; boundary=x',
        "Accept": "application/dicom+json",
    }
    guest = {"Authorization": f"Bearer {running.keys['guest']}"}
    body = b"".join(parts) + b"--x--\r\n"
    assert client.post("/proxy/dicom/studies", content=body, headers=kind | guest).status_code == 403
    assert client.post("/proxy/dicom/studies", content=body, headers=kind).status_code == 200
    stored = client.get("/proxy/dicom/instances").json()
    uid = str(pydicom.dcmread(series[0], stop_before_pixels=True).SeriesInstanceUID)
    assert sum(one["0020000E"]["Value"] == [uid] for one in stored) == len(series)


def test_without_a_key_nothing_is_told(client):
    for path in ("/ohif/", "/info/", "/proxy/dicom/studies"):
        answer = client.get(path, headers={"Authorization": ""})
        assert answer.status_code == 401 and "Basic" in answer.headers["WWW-Authenticate"]
        assert answer.headers["Strict-Transport-Security"]
    assert client.get("/info/", headers={"Authorization": "Bearer sam_" + "x" * 43}).status_code == 401
    assert client.get("/health_check/", headers={"Authorization": ""}).status_code == 200


def test_an_upload_that_is_too_large_is_refused_with_the_servers_reason(running, tmp_path):
    """By the line of README.md; the file has no content to send, but the size of some."""
    with (tmp_path / "image.png").open("wb") as file:
        file.truncate((512 << 20) + 1)
    where = ["--cacert", f"{running.authority}/root.crt", "--connect-to", f"::127.0.0.1:{running.stack.ports['front']}"]
    form = ["-F", f"file=@{file.name}", "-F", 'sam_input={"positive_points": [{"x": 250, "y": 350}]}']
    login = ["-H", f"Authorization: Bearer {running.keys['anna']}"]
    url = f"https://{NAME}/segment_input_image/"
    for _ in range(3):  # a client that is still sending can lose the end of the response: then curl ends with 18 or 55
        done = subprocess.run(
            ["curl", "-sS", *where, *login, *form, url], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode not in (18, 55):
            break
    assert "larger than the 512 MiB that are allowed" in done.stdout, done.stderr


def test_from_the_browser_to_a_mask_in_ohif(running, browser):
    page = OhifPage(browser, running.url, ("anna", running.keys["anna"]))
    try:
        page.open_list()
        page.open_study("Phantom, CT")
        page.connect()
        assert page.server() == f"{running.url}/"
        place = ORGANS[STOMACH].centre
        page.choose_model("sam_tiny")
        page.choose_label("region")
        page.go_to(place)
        page.click(place)
        asked, answer = page.run()
        page.screenshot(REPOSITORY / "e2e-artefacts" / "stack" / "mask-over-tls.png")
        assert answer.status == 200 and answer.url.startswith(f"{running.url}/infer/")
        k = asked["foreground"][0][2]
        found, truth = page.labels()[k] > 0, CT.grid.label(STOMACH)[k]
        assert 2 * np.count_nonzero(found & truth) / (np.count_nonzero(found) + np.count_nonzero(truth)) > 0.85
        ours = [one for one in page.cookies() if one["httpOnly"]]  # the plugin's is its own
        assert ours and all(one["secure"] for one in ours)
    finally:
        page.close()
    assert page.failures == []
    assert page.hosts <= {running.url, "blob:", "data:"}


def test_nothing_left_the_machine_and_no_log_names_a_patient(running):
    logs = {name: running.stack.log(name).read_text(errors="replace") for name in ("front", "server", "archive")}
    for name, log in logs.items():
        assert "OUTBOUND REFUSED" not in log, name
        assert "Phantom" not in log and "PHANTOM" not in log, name
        assert running.keys["anna"] not in log, name
    assert (running.stack.secrets / "archive_password").read_text().strip() not in "".join(logs.values())


def test_a_head_that_does_not_come_ends_its_connection(half_a_head):
    half_a_head.settimeout(25)
    assert half_a_head.recv(100) == b""
