"""Who gets in: API keys and OpenID Connect at a real server."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jwt
import numpy as np
import pytest
import requests
from monailabel.client.client import MONAILabelClient, MONAILabelClientException
from PIL import Image

from lib.server.auth.api_keys import make_key
from lib.server.auth.key_file import KeyFile
from support.chromium import running_chromium
from support.oidc_provider import CLIENT_ID, PASSWORD, OidcProvider, running_provider
from support.server_process import Server, command, free_port, running_server

pytestmark = [
    pytest.mark.server,
    # monailabel.client leaves its connections for the garbage collector to close
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NOT_CLOSED = {"/", "/docs", "/openapi.json", "/favicon.ico", "/health_check/", "/auth/", "/auth/token", "/sam/"}
"""Paths of routes that hold no data; and the files of the documentation and the page."""
NOT_CLOSED_FOLDERS = ("/sam/docs-assets", "/sam/page/")


LIST_UPSTREAM_ROUTES = """
import json
from monailabel.app import app

def listed(routes):
    for route in routes:
        if hasattr(route, "original_router"):
            yield from listed(route.original_router.routes)
        else:
            for method in getattr(route, "methods", None) or ["GET"]:
                yield method, route.path

print(json.dumps(list(listed(app.routes))))
"""


@dataclass
class Guarded:
    """A server that asks for a login, and its file of keys."""

    server: Server
    keys: KeyFile

    def add(self, name: str, *roles: str, days: float | None = None) -> dict[str, str]:
        """A new key's header."""
        return bearer(self.add_key(name, *roles, days=days))

    def add_key(self, name: str, *roles: str, days: float | None = None) -> str:
        key, entry = make_key(name, roles, days)
        self.keys.add(entry)
        return key


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def make_studies(folder: Path) -> Path:
    folder.mkdir()
    Image.fromarray(disc()).save(folder / "disc.png")
    return folder


def disc() -> np.ndarray:
    rows, columns = np.mgrid[:200, :240]
    return np.where((columns - 130) ** 2 + (rows - 90) ** 2 <= 40**2, 190, 70).astype(np.uint8)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory) -> Iterator[Guarded]:
    """With API keys."""
    folder = tmp_path_factory.mktemp("keys")
    keys = KeyFile(folder / "keys.json")
    keys.add(make_key("first", ["user"], None)[1])
    with running_server(folder, "api_keys", str(keys.path), studies=make_studies(folder / "studies")) as server:
        yield Guarded(server, keys)


@pytest.fixture(scope="module")
def user(guarded) -> dict[str, str]:
    return guarded.add("viewer", "user")


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    with running_provider() as running:
        yield running


@pytest.fixture(scope="module")
def with_oidc(provider, tmp_path_factory) -> Iterator[Guarded]:
    """With API keys and an OpenID Connect provider, which is set up as MONAI Label documents it."""
    folder = tmp_path_factory.mktemp("oidc")
    keys = KeyFile(folder / "keys.json")
    keys.add(make_key("first", ["user"], None)[1])
    variables = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": provider.issuer}
    studies = make_studies(folder / "studies")
    with running_server(folder, "api_keys", str(keys.path), studies=studies, variables=variables) as server:
        yield Guarded(server, keys)


def segment(server: Server, headers: dict[str, str]) -> requests.Response:
    prompts = json.dumps({"positive_points": [{"x": 130, "y": 90}]})
    return server.segment((server.studies / "disc.png").read_bytes(), prompts, headers=headers)


def eventually(condition: Callable[[], bool], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)
    return condition()


@pytest.fixture(scope="module")
def routes(guarded) -> set[tuple[str, str]]:
    """Method and path of every route: MONAI Label's, hidden ones too, and those that the server documents."""
    listed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIST_UPSTREAM_ROUTES],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=guarded.server.studies,
    )
    found = {(method, path) for method, path in json.loads(listed.stdout.splitlines()[-1])}
    documented = guarded.server.get("/openapi.json").json()["paths"]
    found |= {(method.upper(), path) for path, operations in documented.items() for method in operations}
    return found


def test_without_a_login_no_route_answers_but_those_that_hold_no_data(guarded, routes):
    assert {path for _, path in routes} >= {
        "/infer/{model}",
        "/reload",
        "/static",
        "/proxy/dicom/{path:path}",
        "/ohif/{path:path}",
    }
    answers = {}
    for method, path in sorted(routes):
        url = guarded.server.url + re.sub(r"{[^}]*}", "1.2.3", path)
        if path not in NOT_CLOSED and not path.startswith(NOT_CLOSED_FOLDERS):
            for headers in ({}, bearer("sam_" + "x" * 43)):
                answer = requests.request(method, url, headers=headers, timeout=30, allow_redirects=False)
                answers[method, path, bool(headers)] = answer.status_code
    assert len(answers) > 80
    assert {request: status for request, status in answers.items() if status != 401} == {}


def test_files_below_mounted_folders_need_a_login(guarded, user):
    for path in ("/static/favicon.ico", "/static/ohif/index.html", "/ohif/", "/ohif/app-config.js"):
        assert guarded.server.get(path).status_code == 401
        assert guarded.server.get(path, headers=user).status_code == 200


def test_what_stays_open(guarded):
    for path in ("/", "/docs", "/openapi.json", "/health_check/", "/sam/docs-assets/swagger-ui.css", "/auth/"):
        assert guarded.server.get(path).status_code == 200, path


def test_the_four_routes_with_a_key(guarded, user):
    server = guarded.server
    answer = segment(server, user)
    assert answer.status_code == 200, answer.text
    timestamp = answer.json()["timestamp"]
    assert server.get(f"/get_segmented_image/{timestamp}", headers=user).content.startswith(b"\x89PNG")
    assert server.get(f"/get_dicom_image/{timestamp}", headers=user).content[128:132] == b"DICM"
    manifest = next(server.results.glob("*/manifest.json"))
    assert json.loads(manifest.read_text())["user"] == "key:viewer"


def test_others_results_are_as_if_they_were_not_there(guarded, user):
    other, admin = guarded.add("colleague", "user"), guarded.add("auditor", "user", "admin")
    timestamp = segment(guarded.server, user).json()["timestamp"]
    for path in (f"/get_segmented_image/{timestamp}", f"/get_dicom_image/{timestamp}?type=seg"):
        assert guarded.server.get(path, headers=other).status_code == 404
        for headers in (user, admin):
            assert guarded.server.get(path, headers=headers).status_code == 200


def test_others_sessions_are_as_if_they_were_not_there(guarded, user):
    server = guarded.server
    other, admin = guarded.add("neighbour", "user"), guarded.add("operator", "user", "admin")
    image = (server.studies / "disc.png").read_bytes()

    def ask(method: str, path: str, headers: dict[str, str], **kwargs: object) -> requests.Response:
        return requests.request(method, server.url + path, headers=headers, timeout=60, **kwargs)

    def new_session() -> str:
        made = ask("PUT", "/session/", user, files={"files": ("disc.png", image)})
        return made.json()["session_id"]

    def uses(session: str) -> dict[str, tuple[str, str, dict[str, object]]]:
        click = {"params": json.dumps({"foreground": [[130, 90, 0]], "result_extension": ".png"})}
        return {
            "is told of it": ("GET", f"/session/{session}", {}),
            "reads it": ("GET", f"/session/{session}?image=true", {}),
            "keeps it for longer": ("GET", f"/session/{session}?update_ts=true", {}),
            "segments it": ("POST", f"/infer/sam_tiny?session_id={session}&output=image", {"data": click}),
            "follows it": ("POST", f"/infer/sam_tiny_3d?session_id={session}&output=image", {"data": click}),
            "removes it": ("DELETE", f"/session/{session}", {}),
        }

    session, none = new_session(), "0" * 8 + "-0000" * 3 + "-" + "0" * 12
    for name, (method, path, kwargs) in uses(session).items():
        refused = ask(method, path, other, **kwargs)
        assert refused.status_code == 404, (name, refused.text)
        missing = ask(method, path.replace(session, none), other, **kwargs)
        assert refused.text.replace(session, none) == missing.text, name
        assert ask(method, path, {}, **kwargs).status_code == 401, name
    assert ask("GET", f"/session/{session}?image=true", user).content == image
    for headers in (user, admin):
        mine = new_session()
        for name, (method, path, kwargs) in uses(mine).items():
            assert ask(method, path, headers, **kwargs).status_code == 200, name
        assert ask("GET", f"/session/{mine}", headers).status_code == 404


def test_an_upload_is_refused_before_it_is_read(guarded):
    """With MONAI Label's own guard the server reads all of the body first, whoever sends it."""
    host, port = guarded.server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /segment_input_image/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 400000000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 401")


def test_roles_are_monai_labels_and_none_includes_another(guarded, user):
    server = guarded.server
    admin = guarded.add("administrator", "admin")
    everything = guarded.add("chief", "user", "annotator", "reviewer", "admin")
    reviewer = guarded.add("reviewer", "reviewer")
    for headers in (admin, reviewer):
        refused = segment(server, headers)
        assert refused.status_code == 403 and "monailabel-user" in refused.json()["detail"]
        assert server.get("/info/", headers=headers).status_code == 403
    for headers, status in ((user, 403), (reviewer, 403), (admin, 404)):
        deleted = requests.delete(f"{server.url}/datastore/image?id=nowhere", headers=headers, timeout=30)
        assert deleted.status_code == status, deleted.text
    assert server.get("/info/", headers=everything).status_code == 200


def test_labels_are_stored_by_annotators_whichever_way(guarded, user):
    """Inference that is told to keep its result, and what the proxy hands to an archive, are ways to store a label."""
    annotator = guarded.add("annotator", "user", "annotator")
    labels = guarded.server.studies / "labels"
    before = sorted(labels.rglob("*"))
    click = {"foreground": [[130, 90, 0]], "result_extension": ".png", "label_tag": "final"}

    def infer(headers: dict[str, str], **options: object) -> int:
        data = {"params": json.dumps(click | options)}
        return guarded.server.post("/infer/sam_tiny?image=disc", data=data, headers=headers).status_code

    for yes in (True, "true", 1, "on"):
        assert infer(user, save_label=yes) == 403
    assert sorted(labels.rglob("*")) == before
    assert infer(user) == infer(user, save_label=False) == 200
    assert infer(annotator, save_label=True) == 200
    assert sorted(labels.rglob("*")) != before
    admin = guarded.add("tidy", "admin")
    requests.delete(f"{guarded.server.url}/datastore/label?id=disc&tag=final", headers=admin, timeout=30)
    for path in ("studies", "stow/studies", "studies/1.2"):
        assert guarded.server.post(f"/proxy/dicom/{path}", data=b"x", headers=user).status_code == 403
        assert guarded.server.post(f"/proxy/dicom/{path}", data=b"x", headers=annotator).status_code == 404
    for method, path in (("POST", "/batch/infer/sam_tiny"), ("DELETE", "/batch/infer"), ("DELETE", "/train/")):
        assert requests.request(method, guarded.server.url + path, headers=user, timeout=30).status_code == 403


def test_what_timing_tells_is_for_administrators(guarded, user):
    admin = guarded.add("timekeeper", "user", "admin")
    assert "Server-Timing" not in segment(guarded.server, user).headers
    assert "total;dur=" in segment(guarded.server, admin).headers["Server-Timing"]


def test_a_key_ends_when_it_is_removed(guarded):
    server, headers = guarded.server, guarded.add("leaver", "user")
    assert server.get("/info/", headers=headers).status_code == 200
    guarded.keys.remove("leaver")
    assert server.get("/info/", headers=headers).status_code == 401


def test_a_key_ends_when_it_expires(guarded):
    server, headers = guarded.server, guarded.add("guest", "user", days=5 / 86400)
    assert server.get("/info/", headers=headers).status_code == 200
    assert eventually(lambda: server.get("/info/", headers=headers).status_code == 401)
    assert "'guest' has expired" in server.get("/info/", headers=headers).json()["detail"]


def test_a_harmed_file_closes_the_server_until_it_is_mended(guarded, user):
    server, path = guarded.server, guarded.keys.path
    good = path.read_bytes()
    try:
        path.write_bytes(good[: len(good) // 2])
        assert server.get("/info/", headers=user).status_code == 401
        path.write_bytes(good)
        path.chmod(0o644)
        assert server.get("/info/", headers=user).status_code == 401
        path.unlink()
        assert server.get("/info/", headers=user).status_code == 401
        assert server.get("/health_check/").status_code == 200
    finally:
        path.write_bytes(good)
        path.chmod(0o600)
    assert server.get("/info/", headers=user).status_code == 200
    assert "No API key is accepted until this is fixed" in server.log.read_text()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.chmod(0o644), "can be used by others than its owner (mode 0644): chmod 600"),
        (lambda path: path.write_text("{}"), "is not a file of API keys"),
        (lambda path: path.unlink(), "scripts/keys --file"),
    ],
    ids=["mode", "content", "missing"],
)
def test_it_does_not_start_with_a_file_that_it_cannot_use(tmp_path, harm, said):
    keys = KeyFile(tmp_path / "keys.json")
    keys.add(make_key("viewer", ["user"], None)[1])
    harm(keys.path)
    done = subprocess.run(
        command(make_studies(tmp_path / "studies"), free_port(), "api_keys", str(keys.path)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode != 0
    assert "Cannot start: --conf api_keys: " in done.stdout + done.stderr and said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_slicers_login(guarded, tmp_path):
    """The calls of 3D Slicer's module, in its order, by the client that it brings along."""
    key = guarded.add_key("slicer-room-3", "user", "annotator")
    client = MONAILabelClient(guarded.server.url, tmpdir=str(tmp_path))
    assert client.auth_enabled() is True and client.auth_valid_token() is False
    with pytest.raises(MONAILabelClientException) as refused:
        client.info()
    assert refused.value.status_code == 401
    client.update_auth(client.auth_token("slicer-room-3", key))
    assert client.auth_valid_token() is True
    assert "sam_tiny" in client.info()["models"]
    assert client.next_sample("first", {})["id"] == "disc"
    params = {"foreground": [[130, 90, 0]], "background": [], "label": "organ", "result_extension": ".png"}
    path, _ = client.infer("sam_tiny", "disc", params)
    assert np.asarray(Image.open(path))[90, 130] == 1
    client.save_label("disc", path, tag="final", params={"label_info": []})
    assert (guarded.server.studies / "labels" / "final" / "disc.png").is_file()


def test_a_browser_logs_in_once_for_all_that_ohif_asks_for(guarded):
    """OHIF's plugin knows no login, so it is the browser that asks its user: here, whoever opens the page."""
    key = guarded.add_key("radiologist", "user")
    code = """async () => {
        const form = new FormData();
        form.append("params", JSON.stringify({ foreground: [[130, 90, 0]], result_extension: ".png" }));
        const inference = await fetch("/infer/sam_tiny?image=disc&output=image", { method: "POST", body: form });
        const info = await new Promise((resolve) => {
            const request = new XMLHttpRequest();
            request.onloadend = () => resolve(request.status);
            request.open("GET", "/info/");
            request.send();
        });
        return [inference.status, info];
    }"""
    with running_chromium() as browser:
        for password, status in ((key, 200), ("guess", 401)):
            login = {"username": "radiologist", "password": password}
            with browser.new_context(http_credentials=login) as context:
                page = context.new_page()
                answer = page.goto(f"{guarded.server.url}/ohif/")
                assert answer is not None and answer.status == status
                if status == 200:
                    assert page.evaluate(code) == [200, 200]


@pytest.mark.parametrize("password", ["guess", "", "key:first"])
def test_a_wrong_password_is_refused(guarded, password):
    form = {"username": "first", "password": password, "grant_type": "password"}
    answer = guarded.server.post("/auth/token", data=form)
    assert answer.status_code == (401 if password else 422), answer.text


def test_a_login_needs_its_own_keys_name(guarded):
    key = guarded.add_key("owner", "user")
    form = {"username": "first", "password": key}
    assert guarded.server.post("/auth/token", data=form).status_code == 401
    assert guarded.server.post("/auth/token", data=form | {"username": "owner"}).status_code == 200


def test_web_pages_of_allowed_origins_can_log_in(guarded, user):
    """Browsers ask without a key first, and must be able to read why they were refused."""
    server, page = guarded.server, {"Origin": "http://localhost:3000"}
    asked = page | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = requests.options(f"{server.url}/segment_input_image/", headers=asked, timeout=30)
    assert preflight.status_code == 200
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    for headers in (page, page | user):
        allowed = server.get("/info/", headers=headers).headers["access-control-allow-origin"]
        assert allowed == "http://localhost:3000"


def test_neither_logs_nor_the_api_document_hold_a_key(guarded):
    key = guarded.add_key("secret", "user")
    server = guarded.server
    assert server.get("/info/", headers=bearer(key)).status_code == 200
    assert server.post("/auth/token", data={"username": "secret", "password": key}).status_code == 200
    assert server.post("/auth/token", data={"username": "x", "password": key}).status_code == 401
    assert server.get("/info/", headers=bearer(key + "x")).status_code == 401
    log = server.log.read_text()
    assert key not in log and "Refused a request from 127.0.0.1: there is no such API key" in log
    document = server.get("/openapi.json").json()
    assert "token" not in {one["name"] for one in document["paths"]["/info/"]["get"]["parameters"]}
    assert document["paths"]["/info/"]["get"]["security"] == [{"Bearer": []}]
    assert "security" not in document["paths"]["/health_check/"]["get"]


def test_without_a_login_all_is_as_monai_label_has_it(server):
    assert MONAILabelClient(server.url).auth_enabled() is False
    assert server.get("/auth/").status_code == 404
    assert server.get("/info/").status_code == 200
    document = server.get("/openapi.json").json()
    assert "securitySchemes" not in document["components"]
    assert "Anyone in the network" not in server.log.read_text()


def test_a_valid_token_is_a_user(with_oidc, provider):
    server = with_oidc.server
    answer = segment(server, bearer(provider.token()))
    assert answer.status_code == 200, answer.text
    assert server.get("/auth/token/valid", headers=bearer(provider.token())).json()["username"] == "anna"
    manifest = next(server.results.glob("*/manifest.json"))
    assert json.loads(manifest.read_text())["user"] == "anna"
    others_role = provider.token(realm_access={"roles": ["monailabel-reviewer"]})
    assert server.get("/info/", headers=bearer(others_role)).status_code == 403


@pytest.mark.parametrize(
    "make",
    [
        lambda provider: provider.token(azp="other", aud=["account", "other"]),
        lambda provider: provider.token(exp=int(time.time()) - 60),
        lambda provider: provider.token(iss="http://127.0.0.1:1/realms/hospital"),
        lambda provider: jwt.encode(provider.claims(), None, algorithm="none", headers={"kid": provider.key_id}),
        lambda provider: jwt.encode(provider.claims(), "x" * 40, algorithm="HS256", headers={"kid": provider.key_id}),
        lambda provider: provider.token()[:-6] + "AAAAAA",
        lambda provider: "sam_" + "x" * 43,
    ],
    ids=["audience", "expired", "issuer", "none", "hmac", "signature", "no token"],
)
def test_other_tokens_are_none(with_oidc, provider, make):
    answer = with_oidc.server.get("/info/", headers=bearer(make(provider)))
    assert answer.status_code == 401 and answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert "Traceback" not in answer.text


def test_both_kinds_of_login_hold_at_once(with_oidc, provider, tmp_path):
    key = with_oidc.add_key("viewer", "user")
    assert with_oidc.server.get("/info/", headers=bearer(key)).status_code == 200
    client = MONAILabelClient(with_oidc.server.url, tmpdir=str(tmp_path))
    assert client.auth_enabled()
    for name, password, username in (("viewer", key, "key:viewer"), ("berta", PASSWORD, "berta")):
        token = client.auth_token(name, password)
        valid = with_oidc.server.get("/auth/token/valid", headers=bearer(token["access_token"]))
        assert valid.json()["username"] == username
    with pytest.raises(MONAILabelClientException) as refused:
        client.auth_token("berta", "guess")
    assert refused.value.status_code == 401
    realm = with_oidc.server.get("/auth/").json()
    assert (realm["client_id"], realm["realm"]) == (CLIENT_ID, provider.issuer)


def test_a_rotation_of_the_providers_keys_is_followed(with_oidc, provider):
    server, old = with_oidc.server, provider.token()
    assert server.get("/info/", headers=bearer(old)).status_code == 200
    provider.rotate()
    new = provider.token()
    assert eventually(lambda: server.get("/info/", headers=bearer(new)).status_code == 200)
    assert server.get("/info/", headers=bearer(old)).status_code == 401


def test_a_provider_that_is_away_is_said_and_keys_still_hold(tmp_path):
    keys = KeyFile(tmp_path / "keys.json")
    key, entry = make_key("viewer", ["user"], None)
    keys.add(entry)
    with running_provider() as gone:
        token = gone.token()
    variables = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": gone.issuer}
    studies = make_studies(tmp_path / "studies")
    with running_server(tmp_path, "api_keys", str(keys.path), studies=studies, variables=variables) as server:
        away = server.get("/info/", headers=bearer(token))
        assert away.status_code == 503 and away.headers["Retry-After"] and "login service" in away.json()["detail"]
        login = server.post("/auth/token", data={"username": "berta", "password": PASSWORD})
        assert login.status_code == 503
        assert server.get("/info/", headers=bearer("nonsense")).status_code == 401
        assert server.get("/info/", headers=bearer(key)).status_code == 200
        assert "Traceback" not in server.log.read_text()
