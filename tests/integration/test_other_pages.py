"""What web pages of others reach of a real server through its user's browser: nothing."""

from __future__ import annotations

import base64

import pytest
import requests

from lib.server.auth.api_keys import make_key
from lib.server.auth.key_file import KeyFile
from lib.server.observe.audit import unknown_users_file
from support.server_process import running_server

pytestmark = pytest.mark.server

PAGE = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
FORM = {"files": {"label": ("disc.png", b"x")}}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server with a login, and the header that a browser adds by itself once its user has logged in."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "studies").mkdir()
    key, entry = make_key("anna", ["user", "annotator", "admin"], None)
    keys = KeyFile(folder / "keys.json")
    keys.add(entry)
    with running_server(folder, "api_keys", str(keys.path), "hosts", "sam.hospital.example") as running:
        yield running, {"Authorization": "Basic " + base64.b64encode(f"anna:{key}".encode()).decode()}


def changing(server) -> list[tuple[str, str]]:
    paths = server.get("/openapi.json").json()["paths"]
    every = {(method.upper(), path) for path, operations in paths.items() for method in operations}
    hidden = {("POST", "/proxy/dicom/studies"), ("POST", "/nowhere")}
    return sorted({(method, path) for method, path in every | hidden if method not in ("GET", "HEAD")})


def test_no_route_that_changes_something_works_for_a_foreign_page(server, guarded):
    locked, login = guarded
    for running, headers in ((server, {}), (locked, login)):
        routes = changing(running)
        assert len(routes) > 15
        for method, path in routes:
            url = running.url + path.replace("{", "").replace("}", "")
            answer = requests.request(method, url, headers=PAGE | headers, data=b"x=y", timeout=30)
            assert answer.status_code == 403, (method, path, answer.text)
            assert "another origin" in answer.json()["detail"]


def test_a_form_of_another_page_writes_no_label_and_starts_nothing(server):
    before = sorted(server.results.iterdir())
    url = f"{server.url}/datastore/label?image=disc&tag=final"
    assert requests.put(url, headers=PAGE, timeout=30, **FORM).status_code == 403
    content = (server.studies / "disc.png").read_bytes()
    assert server.segment(content, "{}", headers=PAGE).status_code == 403
    assert not (server.studies / "labels" / "final" / "disc.png").exists()
    assert sorted(server.results.iterdir()) == before


def test_allowed_and_own_pages_and_programs_go_on(server):
    content = (server.studies / "disc.png").read_bytes()
    for headers in (
        {},
        {"Origin": server.url},
        {"Origin": server.url, "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "cross-site"},
    ):
        answer = server.segment(content, '{"automatic": false}', headers=headers)
        assert answer.status_code == 200, answer.text


def test_a_name_that_was_bound_to_this_address_reads_nothing(server, guarded):
    locked, login = guarded
    for running, headers in ((server, {}), (locked, login)):
        for path in ("/datastore/image?image=disc", "/info/", "/ohif/", "/health_check/", "/sam/", "/nowhere"):
            answer = running.get(path, headers={"Host": "evil.example:8000"} | headers)
            assert answer.status_code == 421 and "--conf hosts evil.example" in answer.json()["detail"]
    named = locked.get("/info/", headers={"Host": "sam.hospital.example"} | login)
    assert named.status_code == 200
    assert '"status":421' in unknown_users_file(server.audit).read_text().replace(" ", "")


def test_redirects_and_cookies(server):
    answer = server.get("/ohif", headers={"Host": "10.9.8.7"}, allow_redirects=False)
    assert answer.status_code == 307 and answer.headers["Location"] == "/ohif/"
    plain = server.get("/ohif/").headers["Set-Cookie"]
    assert "SAM-Client" in plain and "HttpOnly" in plain and "SameSite=strict" in plain and "Secure" not in plain
    behind_tls = server.get("/ohif/", headers={"X-Forwarded-Proto": "https"})
    assert len(behind_tls.cookies) == 2 and all(cookie.secure for cookie in behind_tls.cookies)
