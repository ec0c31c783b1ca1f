from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from lib.server.auth.api_keys import ApiKey, KeyFileError, digest, make_key

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_keys_are_long_random_and_kept_as_their_digest_alone():
    key, entry = make_key("viewer", ["user"], None)
    other, _ = make_key("viewer", ["user"], None)
    assert key != other and len(key.removeprefix("sam_")) == 43  # 256 bits in base64
    assert entry.sha256 == hashlib.sha256(key.encode()).hexdigest() == digest(key)
    assert key not in str(entry) and key not in str(entry.as_json())


def test_json_and_back():
    _, entry = make_key("room-3.slicer_a", ["user", "admin", "user"], 1.5)
    again = ApiKey.from_json(entry.as_json())
    assert (again.name, again.roles, again.sha256) == ("room-3.slicer_a", ("user", "admin"), entry.sha256)
    assert entry.expires is not None and again.expires is not None
    assert abs(again.expires - entry.expires) < timedelta(seconds=1)
    assert entry.expires - entry.created == timedelta(days=1.5)


def test_expiry():
    key = ApiKey("a", ("user",), NOW, NOW + timedelta(days=1), "0" * 64)
    assert not key.has_expired(NOW + timedelta(hours=23))
    assert key.has_expired(NOW + timedelta(days=1))
    assert not ApiKey("a", ("user",), NOW, None, "0" * 64).has_expired(NOW + timedelta(days=99999))


@pytest.mark.parametrize("name", ["", "a b", "../a", "key:a", "a" * 65, "ä", "-a", "a\n"])
def test_names_that_are_refused(name):
    with pytest.raises(KeyFileError, match="is not a valid name for a key"):
        make_key(name, ["user"], None)


@pytest.mark.parametrize("roles", [[], ["root"], ["user", "monailabel-user"]])
def test_roles_that_are_refused(roles):
    with pytest.raises(KeyFileError, match="the roles are: user, annotator, reviewer, admin"):
        make_key("a", roles, None)


@pytest.mark.parametrize("days", [0, -1, 1e12, float("nan"), float("inf")])
def test_spans_that_are_refused(days):
    with pytest.raises(KeyFileError, match="days"):
        make_key("a", ["user"], days)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"sha256": "x"}, "64 hexadecimal digits"), ({"created": "2026-01-01T00:00:00"}, "without a time zone")],
)
def test_entries_that_are_refused(change, said):
    _, entry = make_key("a", ["user"], None)
    with pytest.raises(KeyFileError, match=said):
        ApiKey.from_json({**entry.as_json(), **change})
