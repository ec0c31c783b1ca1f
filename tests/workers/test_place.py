"""Where workers run, as operators write it."""

from __future__ import annotations

import pytest

from lib.workers.place import WorkersPlace


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("ray", WorkersPlace(here=(0, 0))),
        ("ray:2", WorkersPlace(here=(2, 2))),
        ("ray:1-4", WorkersPlace(here=(1, 4))),
        ("ray://sam-head:10001", WorkersPlace(cluster="ray://sam-head:10001")),
        ("http://workers:8000", WorkersPlace(served=("http://workers:8000",))),
        ("https://a, http://[::1]:8000/", WorkersPlace(served=("https://a", "http://[::1]:8000"))),
    ],
)
def test_a_place_is_read(text: str, place: WorkersPlace):
    assert WorkersPlace.parse(text) == place


@pytest.mark.parametrize(
    "text",
    [
        *("", "ray:", "ray:0", "ray:-1", "ray:1-", "ray:2-1", "ray:0-2", "ray:2.5", "ray:\N{ARABIC-INDIC DIGIT TWO}"),
        *(
            "dask:2",
            "ray://",
            "ray://head",
            "ray://:10001",
            "ray://head:port",
            "ray://head:10001/x",
            "ray://head:99999",
        ),
        *("http://", "http://a/b", "http://user:secret@a", "http://a,", "http://a,ray:2", "ftp://a", "http://a?b"),
        "http://[::1",
    ],
)
def test_what_is_no_place_is_refused(text: str):
    with pytest.raises(ValueError, match="must be ray, ray:N as in ray:2, ray:MIN-MAX, ray://host:port, or http://"):
        WorkersPlace.parse(text)
