from __future__ import annotations

import pytest
from monailabel.config import settings
from monailabel.endpoints.user.auth import DEFAULT_USER, User

from lib.server.auth.users import may_see


@pytest.mark.parametrize(
    ("user", "owner", "expected"),
    [
        (User(username="key:a", roles=["monailabel-user"]), "key:a", True),
        (User(username="key:a", roles=["monailabel-user"]), "key:b", False),
        (User(username="key:a", roles=["monailabel-user"]), "a", False),
        (User(username="key:a", roles=["monailabel-user", "monailabel-reviewer"]), "key:b", False),
        (User(username="key:a", roles=["monailabel-admin"]), "key:b", True),
        (User(username="key:a", roles=["admin"]), "key:b", False),
        (User(username="anna", roles=["monailabel-user"]), DEFAULT_USER.username, False),
    ],
)
def test_with_a_login(monkeypatch, user, owner, expected):
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    assert may_see(user, owner) is expected


def test_without_a_login_everybody_sees_everything(monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", False)
    assert may_see(DEFAULT_USER, "key:a") and may_see(User(username="x"), "anna")
