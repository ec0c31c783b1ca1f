"""Against a provider that really answers over HTTP and really signs."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import replace

import jwt
import pytest
from monailabel.config import settings
from monailabel.endpoints.user.auth import from_token

from lib.server.auth import oidc
from lib.server.auth.login_errors import InvalidLoginError, ProviderError
from lib.server.auth.oidc import OidcVerifier
from support.oidc_provider import CLIENT_ID, PASSWORD, OidcProvider, running_provider


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    with running_provider() as running:
        yield running


@pytest.fixture
def verifier(provider) -> OidcVerifier:
    return OidcVerifier(provider.issuer, CLIENT_ID, timeout=5)


def user_of(verifier: OidcVerifier, *tokens: str):
    """The last token's user; all are asked for on one event loop."""

    async def ask():
        return [await verifier.user_of(token) for token in tokens][-1]

    return asyncio.run(ask())


def test_monai_label_itself_refuses_a_valid_token(provider, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_REALM_URI", provider.issuer)
    with pytest.raises(jwt.DecodeError, match="algorithms"):
        from_token(provider.token())


def test_the_user_is_as_the_claims_say(provider, verifier):
    user = user_of(verifier, provider.token())
    assert (user.username, user.name, user.email) == ("anna", "Anna Ather", "anna@hospital.example")
    assert user.roles == ["offline_access", "monailabel-user"]


def test_nothing_is_asked_of_the_provider_for_what_is_no_token(provider, verifier):
    for text in ("", "x", "a.b.c", "é", "sam_" + "x" * 43, "." * 1000, hmac_token(provider), unsigned_token(provider)):
        with pytest.raises(InvalidLoginError):
            user_of(verifier, text)
    assert provider.fetches == 0


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": CLIENT_ID, "azp": "other"},
        {"aud": ["account", CLIENT_ID], "azp": "other"},
        {"aud": None},
        {"aud": "account", "azp": CLIENT_ID},
    ],
)
def test_tokens_for_this_server(provider, verifier, claims):
    assert user_of(verifier, provider.token(**claims)).username == "anna"


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"azp": "other"}, "not issued for"),
        ({"azp": "other", "aud": ["account", "x"]}, "not issued for"),
        ({"azp": None, "aud": None}, "not issued for"),
        ({"exp": int(time.time()) - 60}, "has expired"),
        ({"exp": None}, "exp"),
        ({"nbf": int(time.time()) + 3600}, "not yet valid"),
        ({"iss": "http://127.0.0.1:1/realms/hospital"}, "issuer"),
        ({"iss": None}, "iss"),
        ({"preferred_username": None}, "name no user"),
        ({"preferred_username": ["anna"]}, "name no user"),
        ({"preferred_username": ""}, "user name"),
        ({"preferred_username": "key:viewer"}, "user name"),
        ({"realm_access": "monailabel-user"}, "name no user"),
        ({"realm_access": {"roles": "monailabel-user"}}, "name no user"),
    ],
)
def test_tokens_that_are_refused(provider, verifier, claims, said):
    with pytest.raises(InvalidLoginError, match=said):
        user_of(verifier, provider.token(**claims))


def test_a_user_without_roles_is_one_who_has_none(provider, verifier):
    assert user_of(verifier, provider.token(realm_access=None)).roles == []
    assert user_of(verifier, provider.token(realm_access={"roles": []})).roles == []


def test_another_place_of_the_roles(provider, verifier, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_TOKEN_ROLES", "resource_access#sam#roles")
    token = provider.token(resource_access={"sam": {"roles": ["monailabel-admin"]}})
    assert user_of(verifier, token).roles == ["monailabel-admin"]


def unsigned_token(provider: OidcProvider) -> str:
    return jwt.encode(provider.claims(), None, algorithm="none", headers={"kid": provider.key_id})


def hmac_token(provider: OidcProvider) -> str:
    """Signed with the public key as if it were a shared secret, which PyJWT itself refuses to do."""

    def encode(part: bytes) -> bytes:
        return urlsafe_b64encode(part).rstrip(b"=")

    header = {"alg": "HS256", "typ": "JWT", "kid": provider.key_id}
    message = b".".join(encode(json.dumps(part).encode()) for part in (header, provider.claims()))
    signature = hmac.digest(provider.public_pem, message, hashlib.sha256)
    return (message + b"." + encode(signature)).decode()


def test_signatures_that_are_refused(provider, verifier):
    with running_provider() as other:
        other.issuer, other.key_id = provider.issuer, provider.key_id
        forged = other.token()
    header, claims, signature = provider.token().split(".")
    changed = urlsafe_b64encode(json.dumps(provider.claims(preferred_username="eve")).encode()).rstrip(b"=").decode()
    for token in (forged, f"{header}.{changed}.{signature}", f"{header}.{claims}.", hmac_token(provider)):
        with pytest.raises(InvalidLoginError):
            user_of(verifier, token)
    key_of_encryption = jwt.encode(
        provider.claims(), provider.private_key, algorithm="RS256", headers={"kid": "encryption"}
    )
    with pytest.raises(InvalidLoginError, match="does not publish"):
        user_of(verifier, key_of_encryption)


def test_keys_are_kept_and_asked_for_again_after_a_rotation(provider, verifier, monkeypatch):
    monkeypatch.setattr(oidc, "_MIN_FETCH_INTERVAL_S", 0.0)
    old = provider.token()
    user_of(verifier, old, provider.token(), provider.token())
    assert provider.fetches == 1
    provider.rotate()
    assert user_of(verifier, provider.token()).username == "anna"
    assert provider.fetches == 2
    with pytest.raises(InvalidLoginError, match="does not publish"):
        user_of(verifier, old)


def test_a_key_that_the_provider_withdrew_ends(provider, verifier, monkeypatch):
    monkeypatch.setattr(oidc, "_MIN_FETCH_INTERVAL_S", 0.0)
    token = provider.token()
    user_of(verifier, token)
    provider.rotate()
    assert user_of(verifier, token).username == "anna"  # the keys are not asked for with every request
    monkeypatch.setattr(verifier, "_provider", replace(verifier._provider, fetched=time.monotonic() - 301))
    with pytest.raises(InvalidLoginError, match="does not publish"):
        user_of(verifier, token)


def test_tokens_of_unknown_keys_cannot_make_the_server_ask_again_and_again(provider, verifier):
    user_of(verifier, provider.token())
    for number in range(50):
        token = jwt.encode(
            provider.claims(), provider.private_key, algorithm="RS256", headers={"kid": f"made up {number}"}
        )
        with pytest.raises(InvalidLoginError):
            user_of(verifier, token)
    assert provider.fetches == 1


def test_requests_at_the_same_time_ask_once(provider, verifier):
    async def ask():
        return await asyncio.gather(*(verifier.user_of(provider.token()) for _ in range(20)))

    assert {user.username for user in asyncio.run(ask())} == {"anna"}
    assert provider.fetches == 1


def test_a_provider_that_fails(provider, verifier, monkeypatch):
    provider.broken = True
    for _ in range(3):
        with pytest.raises(ProviderError, match="cannot be reached"):
            user_of(verifier, provider.token())
    provider.broken = False
    with pytest.raises(ProviderError):  # it is not asked again at once
        user_of(verifier, provider.token())
    assert provider.fetches == 0
    monkeypatch.setattr(verifier, "_next_fetch", 0.0)
    assert user_of(verifier, provider.token()).username == "anna"
    provider.broken = True
    assert user_of(verifier, provider.token()).username == "anna"  # the keys are known
    monkeypatch.setattr(oidc, "_KEYS_LIFETIME_S", 0.0)
    monkeypatch.setattr(verifier, "_next_fetch", 0.0)
    with pytest.raises(ProviderError):  # but not for ever
        user_of(verifier, provider.token())


def test_a_provider_that_is_not_there():
    with running_provider() as gone:
        token = gone.token()
    with pytest.raises(ProviderError, match="cannot be reached"):
        user_of(OidcVerifier(gone.issuer, CLIENT_ID, timeout=5), token)


def test_login_with_a_password(provider, verifier):
    token = asyncio.run(verifier.token_for("berta", PASSWORD))
    assert token.token_type == "Bearer" and user_of(verifier, token.access_token).username == "berta"
    with pytest.raises(InvalidLoginError, match="wrong"):
        asyncio.run(verifier.token_for("berta", "guess"))
    provider.broken = True
    with pytest.raises(ProviderError):
        asyncio.run(verifier.token_for("berta", PASSWORD))
