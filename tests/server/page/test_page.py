from __future__ import annotations

import asyncio
import re
from html.parser import HTMLParser
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest
from monailabel.config import settings
from starlette.applications import Starlette

from lib.imaging.palette import PALETTE
from lib.server.page import routes
from lib.server.page.routes import page_routes
from lib.transforms.window import PRESETS
from phantom_series import SAMPLE

FOLDER = Path(routes.__file__).with_name("static")
PAGES = {"/": "landing.html", "/sam/": "index.html"}
ASSETS = sorted(path.name for path in FOLDER.iterdir() if path.name not in PAGES.values())
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Client:
    """Requests to the page's routes without a server."""

    def __init__(self) -> None:
        self._app = Starlette(routes=page_routes())

    def request(self, method: str, path: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                return await client.request(method, path)

        return asyncio.run(ask())

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)


@pytest.fixture(scope="module")
def client() -> Client:
    return Client()


class Tags(HTMLParser):
    """Every start tag of a document with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


SAMPLES = ("ct-head.dcm", "torso.nii.gz", "heart.dcm")


@pytest.mark.parametrize(
    "path",
    [
        *(*PAGES, "/sam/page/constants.json"),
        *(f"/sam/page/{name}" for name in ASSETS),
        *(f"/sam/page/samples/{name}" for name in SAMPLES),
    ],
)
def test_everything_is_served_with_a_strict_policy(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'self'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", ASSETS)
def test_assets_are_the_files_with_their_types(client, name):
    answer = client.get(f"/sam/page/{name}")
    assert answer.content == (FOLDER / name).read_bytes()
    assert answer.headers["content-type"].split(";")[0] == MEDIA_TYPES[Path(name).suffix]


@pytest.mark.parametrize("path", PAGES)
def test_the_pages_are_html(client, path):
    answer = client.get(path)
    assert answer.content == (FOLDER / PAGES[path]).read_bytes()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert client.get("/sam").headers["location"].endswith("/sam/")


@pytest.mark.parametrize(
    "name", [*PAGES.values(), "routes.py", "none.js", "", "..%2Froutes.py", "%2e%2e/routes.py", "../routes.py"]
)
def test_nothing_else_is_served(client, name):
    assert client.get(f"/sam/page/{name}").status_code == 404


def test_samples_are_whole_and_nothing_else_is_served_there(client, tmp_path):
    assert tuple(client.get("/sam/page/constants.json").json()["samples"]) == SAMPLES
    (tmp_path / "torso.nii.gz").write_bytes(client.get("/sam/page/samples/torso.nii.gz").content)
    torso = nibabel.load(tmp_path / "torso.nii.gz")
    SAMPLE.write_nifti(tmp_path / "made.nii.gz")
    made = nibabel.load(tmp_path / "made.nii.gz")
    assert np.array_equal(torso.dataobj, made.dataobj) and np.array_equal(torso.affine, made.affine)
    for name in ("none.dcm", "..%2F..%2Froutes.py", "CT_small.dcm"):
        unknown = client.get(f"/sam/page/samples/{name}")
        assert unknown.status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_is_read_only(client, method):
    assert client.request(method, "/sam/").status_code == 405


@pytest.mark.parametrize("login", [False, True])
def test_constants_are_the_servers_own(client, monkeypatch, login):
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", login)
    constants = client.get("/sam/page/constants.json").json()
    assert constants["asksForLogin"] is login
    assert constants["palette"] == PALETTE.tolist()
    assert {name: (w["center"], w["width"]) for name, w in constants["windows"].items()} == {
        name: (window.center, window.width) for name, window in PRESETS.items()
    }


def test_the_page_names_only_files_that_there_are(client):
    tags = Tags(client.get("/sam/").text).found
    named = [value for _, attributes in tags for key in ("src", "href") if (value := attributes.get(key))]
    pages = {"../docs", "#stage"}
    assert {name for name in named if name not in pages} == {f"page/{n}" for n in ("icon.svg", "sam.css", "main.js")}
    for path in FOLDER.glob("*.js"):
        for module in re.findall(r'from "(.+)"', path.read_text()):
            assert module.startswith("./") and (FOLDER / module).is_file(), f"{path.name} imports {module}"


def test_the_first_page_leads_to_all_others_without_a_script(client):
    tags = Tags(client.get("/").text).found
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert links == ["sam/", "ohif/", "docs", "health_check/"]
    styles = [attributes["href"] for tag, attributes in tags if tag == "link"]
    assert styles == [f"sam/page/{name}" for name in ("icon.svg", "sam.css", "landing.css")]
    assert all(client.get(f"/{name}").status_code == 200 for name in styles)
    assert "script" not in {tag for tag, _ in tags}


@pytest.mark.parametrize("page", PAGES)
def test_nothing_needs_what_the_policy_forbids(client, page):
    """No script or style in the document, and no address of another machine anywhere but XML's own names."""
    for tag, attributes in Tags(client.get(page).text).found:
        assert tag != "style" and "style" not in attributes
        assert tag != "script" or attributes.get("src")
        assert not [name for name in attributes if name.startswith("on")]
    for path in FOLDER.iterdir():
        addresses = set(re.findall(r"https?://[^\"'\s)>]+", path.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path.name


def test_labels_and_descriptions_name_elements_that_there_are(client):
    tags = Tags(client.get("/sam/").text).found
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tags:
        for key in ("for", "aria-labelledby", "aria-describedby"):
            assert set((attributes.get(key) or "").split()) <= set(ids), attributes
    scripts = "".join(path.read_text() for path in FOLDER.glob("*.js"))
    used = set(re.findall(r'(?:byId|getElementById)\("([a-z-]+)"\)', scripts))
    assert used and used <= set(ids)
