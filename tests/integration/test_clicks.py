"""A viewer's successive clicks on the real server: they refine, and clients never meet."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor

import nrrd
import numpy as np
import pydicom
import pytest
import requests
from monailabel.utils.others.generic import md5_digest

from support.dicomweb_stand_in import running_stand_in
from support.phantoms import BALL_CENTRE
from support.series import ACQUISITIONS, write_series
from support.server_process import Server, running_server

pytestmark = pytest.mark.server

X, Y, K = BALL_CENTRE
CLICKS = [[X, Y, K], [X - 6, Y, K], [X + 5, Y + 4, K], [X, Y - 7, K]]


def click(server: Server, foreground: list, client: str | None, session=requests, **params) -> bytes:
    """A click as 3D Slicer sends it; answers the mask's voxels."""
    params = {"foreground": foreground, "background": [], "result_extension": ".nrrd", **params}
    if client is not None:
        params["client_id"] = client
    answer = session.post(
        f"{server.url}/infer/sam_tiny",
        params={"image": "ball", "output": "image"},
        data={"params": json.dumps(params)},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    stream = io.BytesIO(answer.content)
    header = nrrd.read_header(stream)
    voxels: bytes = nrrd.read_data(header, stream).tobytes()
    return voxels


def series_of_clicks(server: Server, client: str | None, clicks: list) -> list[bytes]:
    return [click(server, clicks[: n + 1], client) for n in range(len(clicks))]


def test_a_click_goes_on_from_the_mask_of_the_one_before(server):
    at_once = click(server, CLICKS[:2], "fresh one")
    first = click(server, CLICKS[:1], "ann")
    refined = click(server, CLICKS[:2], "ann")
    assert refined != at_once and refined != first
    assert click(server, CLICKS[:2], "ann") == refined, "the same click again changes nothing"
    assert click(server, CLICKS[:2], "ann", label="another") == at_once, "another label starts afresh"
    assert click(server, CLICKS[1:2], "ann") == click(server, CLICKS[1:2], "fresh two"), "a point was taken away"


def test_an_answer_says_what_it_waited_for(server):
    def stages(x: int) -> dict[str, float]:
        params = {"foreground": [[x, Y, K]], "window": "mediastinum", "result_extension": ".nrrd"}
        files = {"params": (None, json.dumps(params))}
        answer = server.post("/infer/sam_tiny?image=ball&output=image", files=files)
        timing = [part.split(";dur=") for part in answer.headers["server-timing"].split(", ")]
        return {name: float(milliseconds) for name, milliseconds in timing}

    first, warm = stages(X), stages(X + 1)  # no other test chooses this window
    assert set(warm) == {"read", "window", "decode", "write", "total"}
    assert set(first) - set(warm) >= {"encode"}
    assert sum(first.values()) < 2 * first["total"] + 1, "a stage was counted twice"


def test_a_click_on_a_series_that_is_here_asks_the_archive_nothing(tmp_path):
    """The archive can be slow, or away."""
    with running_stand_in() as archive:
        cache = tmp_path / "cache" / md5_digest(archive.url)
        cache.mkdir(parents=True)
        files = write_series(tmp_path / "series", ACQUISITIONS[0])
        series = str(pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)
        (tmp_path / "series").rename(cache / series)
        variables = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(cache.parent)}
        with running_server(tmp_path / "server", studies=archive.url, variables=variables) as server:
            archive.requests.clear()
            params = json.dumps({"foreground": [[3, 3, 0]], "background": [], "result_extension": ".nrrd"})
            answer = server.post(f"/infer/sam_tiny?image={series}&output=image", files={"params": (None, params)})
            assert answer.status_code == 200, answer.text
            assert archive.requests == []


def test_a_client_that_cannot_be_told_from_others_starts_afresh_each_time(server):
    assert click(server, CLICKS[:1], None) != click(server, CLICKS[:2], None)
    assert click(server, CLICKS[:2], None) == click(server, CLICKS[:2], "fresh three")


def test_a_browser_is_told_from_others_by_its_cookie(server):
    with requests.Session() as ann, requests.Session() as bob:
        for browser in (ann, bob):
            assert browser.get(f"{server.url}/ohif/viewer", timeout=60).status_code == 200
        click(server, CLICKS[:1], None, session=ann)
        [cookie] = [cookie for cookie in ann.cookies if cookie.name == "SAM-Client"]
        assert cookie.has_nonstandard_attr("HttpOnly") and len(cookie.value) == 32
        refined = click(server, CLICKS[:2], None, session=ann)
        assert refined == click(server, CLICKS[:2], None, session=ann)
        assert refined != click(server, CLICKS[:2], None, session=bob)
        bob.cookies.clear()
        bob.cookies.set("SAM-Client", "../../etc")
        assert click(server, CLICKS[:2], None, session=bob) == click(server, CLICKS[:2], "fresh four")


def test_two_users_on_one_image_get_what_they_get_alone(server):
    """Interleaved and at the same time, bit for bit."""
    orders = {"ann": CLICKS, "bob": CLICKS[::-1], "eve": [CLICKS[0], CLICKS[3], CLICKS[1], CLICKS[2]]}
    alone = {name: series_of_clicks(server, f"{name} alone", clicks) for name, clicks in orders.items()}
    interleaved: dict[str, list[bytes]] = {name: [] for name in orders}
    for n in range(len(CLICKS)):
        for name, clicks in orders.items():
            interleaved[name].append(click(server, clicks[: n + 1], f"{name} in turns"))
    assert interleaved == alone
    with ThreadPoolExecutor(3) as pool:
        together = {
            name: pool.submit(series_of_clicks, server, f"{name} together", clicks) for name, clicks in orders.items()
        }
        assert {name: future.result() for name, future in together.items()} == alone


def test_the_options_of_the_panel(server):
    info = server.get("/info/").json()["models"]["sam_tiny"]["config"]
    assert info["box_from_points"] is False and info["candidates"][0] == info["window"][0] == "auto"
    box = [[X - 11, Y - 11, K], [X + 11, Y + 11, K]]
    from_points = click(server, box, None, box_from_points=True)
    region = [X - 11, X + 11, Y - 11, Y + 11, K, K]
    assert from_points == click(server, [], None, roi=region)
    assert click(server, box[:1], None, box_from_points=True) == click(server, box[:1], None)
    for options in ({"candidates": "best of three"}, {"largest_component": True, "fill_holes": "true"}):
        assert np.frombuffer(click(server, CLICKS[:1], None, **options), np.uint8).size > 100
    params = {"foreground": [box[0], [X - 11, Y, K]], "box_from_points": True}
    answer = server.post("/infer/sam_tiny?image=ball&output=image", data={"params": json.dumps(params)})
    assert answer.status_code == 422 and "opposite corners" in answer.json()["detail"]
