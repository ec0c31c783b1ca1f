from __future__ import annotations

import asyncio

import pytest
from fastapi import HTTPException, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import DEFAULT_USER, User

from lib.server.auth.roles import segmenting_user


def request_of(user: User) -> Request:
    request = Request({"type": "http"})
    request.state.user = user
    return request


@pytest.mark.parametrize(
    ("user", "owner", "expected"),
    [
        (User(username="key:a", roles=["monailabel-user"]), "key:a", True),
        (User(username="key:a", roles=["monailabel-user"]), "key:b", False),
        (User(username="key:a", roles=["monailabel-user"]), "a", False),
        (User(username="key:a", roles=["monailabel-user", "monailabel-reviewer"]), "key:b", False),
        (User(username="key:a", roles=["monailabel-user", "monailabel-admin"]), "key:b", True),
        (User(username="key:a", roles=["monailabel-user", "admin"]), "key:b", False),
        (User(username="anna", roles=["monailabel-user"]), DEFAULT_USER.username, False),
    ],
)
def test_with_a_login(monkeypatch, user, owner, expected):
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    known = asyncio.run(segmenting_user(request_of(user)))
    assert known.may_see(owner) is expected
    assert known.share == user.username


def test_a_user_without_the_role_is_refused(monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    with pytest.raises(HTTPException, match="403"):
        asyncio.run(segmenting_user(request_of(User(username="key:a", roles=["monailabel-admin"]))))


def test_without_a_login_everybody_sees_everything_and_shares_the_places(monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", False)
    for request in (request_of(User(username="x")), Request({"type": "http"})):
        known = asyncio.run(segmenting_user(request))
        assert known.username == DEFAULT_USER.username
        assert known.may_see("key:a") and known.share == ""
