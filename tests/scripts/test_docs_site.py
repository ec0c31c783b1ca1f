"""The documentation as a site: built once, read as a browser and as a person read it."""

from __future__ import annotations

import os
import re
import shutil
import threading
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import expect

import client_reference
import command_reference
import docs
import rest_reference
import sam_app_client
from support.chromium import running_chromium

pytestmark = pytest.mark.slow

GENERATED = {"docs/rest_reference.md", "docs/python_reference.md", "docs/commands.md"}


@pytest.fixture(scope="module")
def document() -> dict:
    """The OpenAPI document."""
    return rest_reference.openapi()


@pytest.fixture(scope="module")
def site(tmp_path_factory, document) -> Path:
    """The built site. Building it fails if one of its links leads nowhere."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rest_reference, "openapi", lambda: document)
        docs.build(folder)
    return folder


def built(site: Path, name: str) -> str:
    """The content of the page that is made from a file of the repository."""
    path = Path(name)
    html = (site / path.parent / ("index.html" if path.stem == "README" else f"{path.stem}.html")).read_text()
    return html[html.index("<article") : html.index("</article")]


def test_all_pages_and_the_pictures_on_them_are_there(site):
    assert len(docs.pages()) == len(set(docs.pages())) > 35
    html = "".join(built(site, name) for name in docs.pages())
    shown = {Path(found).name for found in re.findall(r'<img[^>]*src="([^"]+)', html)}
    assert {path.name for path in (docs.ROOT / "docs" / "images").glob("*.png")} <= shown


def test_a_page_has_the_lists_tables_and_code_that_code_hosts_show(site):
    """Python-Markdown wants more spaces and blank lines in lists, and without them runs lists together."""
    reader = MarkdownIt("commonmark").enable("table")
    for name in set(docs.pages()) - GENERATED:
        expected = reader.render((docs.ROOT / name).read_text(encoding="utf-8"))
        for tag in ("ul", "ol", "li", "table", "td", "pre", "h1", "h2", "h3", "img", "blockquote"):
            counts = [len(re.findall(rf"<{tag}[\s>]", html)) for html in (expected, built(site, name))]
            assert counts[0] == counts[1], f"{name}: {tag}"


def test_every_route_and_field_is_in_the_reference(site, document):
    html = built(site, "docs/rest_reference.md")
    routes = [f"{method.upper()} {path}" for path, of_path in document["paths"].items() for method in of_path]
    assert sorted(re.findall(r"<h3[^>]*><code>([^<]+)</code>", html)) == sorted(routes)
    for name, schema in document["components"]["schemas"].items():
        for field in schema.get("properties", {}):
            assert f"<code>{field}</code>" in html, f"{name}.{field}"
    segment = html.split('id="post-segment_input_image"')[1].split("<h3")[0]
    assert re.search(r"<td><code>sam_input</code></td>\s*<td><a href=\"#schema-saminput\">SAMInput</a></td>", segment)
    assert re.search(
        r"<td>200</td>\s*<td>Its timestamp; .*</td>\s*<td>.*Accepted</a> or <code>image/png</code>", segment
    )
    health = html.split('id="get-health_check"')[1].split("<h3")[0]
    assert "Needs no login." in health and "Needs no login." not in segment


def test_every_public_name_of_the_python_client_is_in_the_reference(site):
    names = [name for of_chapter in client_reference.CHAPTERS.values() for name in of_chapter]
    assert sorted(name for name in names if "." not in name) == sorted(set(sam_app_client.__all__) - {"__version__"})
    html = built(site, "docs/python_reference.md")
    anchors = set(re.findall(r'id="sam_app_client\.([\w.]+)"', html))
    methods = {f"Client.{name}" for name in vars(sam_app_client.Client) if not name.startswith("_")}
    assert {*names, *methods} <= anchors and "Client.segment" in methods
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html))
    assert ":class:" not in text and "``" not in text
    segment = text.split("segment(image=None, **prompts)")[1].split("Raises:")[0]
    assert " Result The result, with its mask" in segment  # and not AsyncResult
    assert "result(timestamp, *, within=600.0, on_wait=None)" in text


def test_every_command_is_in_the_reference_with_what_it_says_of_itself(site):
    commands = {path.name for path in (docs.ROOT / "scripts").iterdir() if path.is_file() and os.access(path, os.X_OK)}
    named = [name for names in command_reference.CHAPTERS.values() for name in names]
    assert sorted(named) == sorted(commands - {"image-entry"})
    html = built(site, "docs/commands.md")
    said = dict(re.findall(r'<h3 id="scripts[^"]*">([\w/ ]+)<.*?<code>(.*?)</code>', html, re.DOTALL))
    said = {name: unescape(re.sub("<[^>]+>", "", text)) for name, text in said.items()}
    assert {f"scripts/{name}" for name in commands - {"image-entry"}} < said.keys()
    assert all(f"sage: {name}" in text for name, text in said.items())
    assert "--itksnap PORT" in said["scripts/start"] and "--days N" in said["scripts/keys add"]
    assert "--docs" in said["scripts/setup"] and str(docs.ROOT) not in html


@pytest.mark.e2e
def test_nothing_is_loaded_from_elsewhere_and_the_search_finds(site):
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    requested: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, running_chromium() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.on("request", lambda request: requested.append(request.url))
        url = f"http://127.0.0.1:{server.server_port}"
        for name in ("index.html", "docs/python_reference.html", "docs/ohif.html"):
            page.goto(f"{url}/{name}")
        page.get_by_role("button", name="Search").first.click()
        page.keyboard.type("negative lasso")
        expect(page.get_by_text("Start from a mask").last).to_be_visible()
        page.goto((site / "index.html").as_uri())
        page.get_by_role("link", name="its own protocol").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("ITK-SNAP")
        server.shutdown()
    assert any(address.endswith(".js") for address in requested)
    assert not [address for address in requested if not address.startswith((url, site.as_uri(), "data:", "blob:"))]


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A repository of two pages with a picture, whose site can be built."""
    (tmp_path / "docs").mkdir()
    configuration = (docs.ROOT / docs.CONFIGURATION).read_text()
    nav = 'nav = [{ "One" = "README.md" }, { "Other" = "docs/other.md" }]\n'
    (tmp_path / docs.CONFIGURATION).write_text(re.sub(r"nav = \[\n.*?^\]\n", nav, configuration, flags=re.S | re.M))
    shutil.copy(docs.ROOT / "docs" / "images" / "python.png", tmp_path / "docs" / "one.png")
    (tmp_path / "README.md").write_text("# One\n\n[two](docs/other.md#there), ![a picture](docs/one.png)\n")
    (tmp_path / "docs" / "other.md").write_text("# Other\n\n## There\n\n[back](../README.md)\n")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    return tmp_path


def fails(repository: Path, added: str) -> None:
    """Building it fails when a page has this, too."""
    readme = repository / "README.md"
    readme.write_text(f"{readme.read_text()}\n{added}\n")
    assert docs.main([str(repository / "site")]) == 1
    assert not (repository / "site").exists()


def test_a_site_takes_the_place_of_a_site_and_of_nothing_else(repository, capsys):
    folder = repository / "site"
    for _ in range(2):
        assert docs.main([str(folder)]) == 0
        assert capsys.readouterr().out == f"{folder / 'index.html'}: 2 pages\n"
    assert docs.faults(folder) == [] and (folder / "docs" / "one.png").is_file()
    for other in (repository, repository / "README.md"):
        assert docs.main([str(other)]) == 1
        assert "holds something else than a site" in capsys.readouterr().err and (repository / "README.md").is_file()


def test_links_that_lead_nowhere_are_named(repository, capsys):
    fails(repository, "[a](docs/gone.md), [b](docs/other.md#gone), [c](#gone)")
    said = capsys.readouterr().err
    assert "README.md:5:5" in said and said.count("anchor does not exist") >= 2 and "page does not exist" in said
    assert "\x1b" not in said and "Traceback" not in said


def test_pictures_and_files_that_are_not_there_and_foreign_addresses_are_named(repository, capsys):
    fails(
        repository,
        '![a](docs/gone.png) [b](docs/gone.ipynb) <img src="https://elsewhere.example/a.png">\n'
        '<script src="//elsewhere.example/a.js"></script> <a href="docs/other.html#gone">c</a>',
    )
    assert capsys.readouterr().err.splitlines()[1:] == [
        "index.html links docs/gone.ipynb, which is not there",
        "index.html links docs/other.html#gone, an anchor that is not there",
        "index.html loads //elsewhere.example/a.js",
        "index.html loads https://elsewhere.example/a.png",
        "index.html shows docs/gone.png, which is not there",
    ]


def test_a_style_sheet_loads_nothing_from_elsewhere(tmp_path):
    (tmp_path / "a.css").write_text(
        "@import 'https://elsewhere.example/a.css'; @font-face {src: url(//elsewhere.example/a.woff2)}\n"
        "a {background: url(b.png)} b {background: url(\"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>\")}"
    )
    found = ["https://elsewhere.example/a.css", "//elsewhere.example/a.woff2"]
    assert docs.faults(tmp_path) == sorted(f"a.css loads {address}" for address in found)


def test_a_page_that_nobody_would_find_or_that_is_not_there_is_named(repository, capsys):
    (repository / "docs" / "forgotten.md").write_text("# Forgotten\n")
    fails(repository, "")
    assert "lacks docs/forgotten.md in its nav" in capsys.readouterr().err
    (repository / "docs" / "forgotten.md").unlink()
    (repository / "docs" / "other.md").unlink()
    fails(repository, "")
    assert "lists docs/other.md, which is not there" in capsys.readouterr().err
