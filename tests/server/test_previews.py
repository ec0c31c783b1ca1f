"""What a click would mark, told before it: as the click does, only when it is known at once, and without a trace."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import nibabel
import numpy as np
import pytest

from support.phantoms import BALL_AFFINE, BALL_CENTRE, ball_volume
from support.rest import picture
from support.served_app import ServedApp, served_app

X, Y, Z = (int(n) for n in BALL_CENTRE)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[ServedApp]:
    with served_app(tmp_path_factory.mktemp("previews") / "app") as one:
        nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_filename(one.studies / "ball.nii.gz")
        yield one


@pytest.fixture(params=["datastore", "session"])
def path(request, served) -> str:
    """Of an image that was opened."""
    if request.param == "datastore":
        assert served.get("/images/ball").status_code == 200
        return "/images/ball"
    session = served.put_session(("ball.nii.gz", (served.studies / "ball.nii.gz").read_bytes()))
    assert served.get(f"/session/{session}/view").status_code == 200
    return f"/session/{session}"


def ask(served: ServedApp, path: str, **query: object) -> httpx.Response:
    version = served.get(path if path.startswith("/images") else f"{path}/view").json()["version"]
    words = {"version": version, "frame": Z, "x": X, "y": Y, **query}
    return served.get(f"{path}/preview?" + "&".join(f"{name}={value}" for name, value in words.items()))


def when_encoded(served: ServedApp, path: str, **query: object) -> httpx.Response:
    until = time.monotonic() + 60
    while (answer := ask(served, path, **query)).status_code == 204:
        assert time.monotonic() < until and answer.content == b""
        time.sleep(0.1)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("window", [{}, {"center": 60, "width": 300}], ids=["auto", "window"])
def test_it_is_what_the_click_marks(served, path, window):
    """The first question has the slice encoded, in the background."""
    shown = picture(when_encoded(served, path, **window))
    point = {"positive_points": [{"x": X, "y": Y}], "frame": Z, "image": "ball"}
    done = served.segment({**point, **({"window": window} if window else {})})
    mask = picture(served.get(f"/get_segmented_image/{done.json()['timestamp']}?view=mask"))
    assert set(np.unique(shown)) == {0, 255} and np.array_equal(shown > 0, mask > 0)


def test_it_stores_nothing_and_waits_for_nobody(served, path):
    when_encoded(served, path)
    before = sorted((served.folder / "results").iterdir())
    assert ask(served, path).status_code == 200
    assert sorted((served.folder / "results").iterdir()) == before
    with served.app.state.admission.inside():
        assert ask(served, path).status_code == 204
    with served.app.state.previews._making:
        assert ask(served, path).status_code == 204
    assert ask(served, path).status_code == 200


@pytest.mark.parametrize("query", [{"version": "other"}, {"model": "none"}, {"model": "medsam_vit_b"}])
def test_what_is_not_known_at_once_is_no_error(served, path, query):
    assert ask(served, path, **query).status_code == 204


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"x": 9999}, "not in the image"),
        ({"frame": 9999}, "not in the image"),
        ({"x": -1}, "greater than or equal to 0"),
        ({"center": "nan", "width": 5}, "finite"),
        ({"center": 0, "width": 0}, "greater than 0"),
    ],
)
def test_what_is_wrong_is_said(served, path, query, said):
    answer = ask(served, path, **query)
    assert answer.status_code == 422 and said in answer.text
