"""A viewer's successive clicks on the real server: they refine, and clients never meet."""

from __future__ import annotations

import io
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import nrrd
import numpy as np
import pytest
import requests

from support.dicomweb_stand_in import running_stand_in
from support.phantoms import BALL_CENTRE, ball_volume
from support.server_process import Server, running_server
from support.small_archive import SmallArchive

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


def test_a_click_is_undone_by_option_or_by_leaving_it_out_and_done_again(server):
    shown = series_of_clicks(server, "eve", CLICKS[:3])
    assert len(set(shown)) == 3
    assert [click(server, CLICKS[:3], "eve", undo=n) for n in range(3)] == shown[::-1]
    assert series_of_clicks(server, "eve", CLICKS[:3]) == shown
    refused = server.post(
        "/infer/sam_tiny?image=ball",
        data={"params": json.dumps({"foreground": CLICKS[:3], "client_id": "eve", "undo": 3})},
    )
    assert refused.status_code == 422 and "undo can be at most 2 here" in refused.json()["detail"]


def timed(server: Server, point: list, **params) -> dict[str, float]:
    """Milliseconds by stage of a click, as the answer says."""
    asked = json.dumps({"foreground": [point], "background": [], "result_extension": ".nrrd", **params})
    answer = server.post("/infer/sam_tiny?image=ball&output=image", files={"params": (None, asked)})
    assert answer.status_code == 200, answer.text
    timing = [part.split(";dur=") for part in answer.headers["server-timing"].split(", ")]
    return {name: float(milliseconds) for name, milliseconds in timing}


def test_the_slices_beside_a_click_are_encoded_before_the_next_one(server):
    window = {"center": 90, "width": 333}  # in which no other test looks at the ball
    assert "encode" in timed(server, [X, Y, K], window=window, client_id="who goes through")
    time.sleep(3)
    for k in (K + 1, K - 1, K + 2):
        stages = timed(server, [X, Y, k], window=window, client_id="who goes through")
        assert "encode" not in stages and "wait" not in stages


def test_the_next_sample_is_encoded_before_the_first_click_on_it(tmp_path, server):
    (tmp_path / "studies").mkdir()
    shutil.copy(server.studies / "ball.nii.gz", tmp_path / "studies")
    with running_server(tmp_path) as fresh:
        sample = fresh.post("/activelearning/first", json={}).json()
        assert sample["id"] == "ball"
        time.sleep(3)
        middle = ball_volume()[0].shape[2] // 2
        assert "encode" not in timed(fresh, [X, Y, middle])


def test_an_answer_says_what_it_waited_for(server):
    def stages(x: int) -> dict[str, float]:
        return timed(server, [x, Y, K + 1], window="bone")

    first, warm = stages(X), stages(X + 1)  # in this window no other test looks at the ball
    assert set(warm) == {"read", "window", "decode", "write", "total"}
    assert set(first) - set(warm) >= {"encode"}
    assert sum(first.values()) < 2 * first["total"] + 1, "a stage was counted twice"


def test_a_click_on_a_series_that_is_here_fetches_nothing_even_if_the_archive_is_away(tmp_path):
    held = SmallArchive()
    with running_stand_in() as archive:
        series = held.serve(archive)
        series.arrive(*range(5))
        variables = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(tmp_path / "cache")}
        with running_server(tmp_path / "server", studies=archive.url, variables=variables) as server:

            def click_status() -> int:
                params = json.dumps({"foreground": [[30, 30, 2]], "background": [], "result_extension": ".nrrd"})
                query = f"/infer/sam_tiny?image={series.uid}&output=image"
                return server.post(query, files={"params": (None, params)}).status_code

            assert click_status() == 200
            archive.requests.clear()
            assert click_status() == 200
            assert not [path for _, path, _ in archive.requests if path.endswith(f"/series/{series.uid}")]
            held.fails = 503
            assert click_status() == 200


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
