"""The realm that Keycloak imports, against what the login of the server reads. Keycloak itself does not run here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from monailabel.config import settings

from lib.server.auth.login_errors import InvalidLoginError
from lib.server.auth.oidc import ALGORITHM, OidcVerifier
from support.compose_stack import DEPLOY, read_compose
from support.oidc_provider import PASSWORD, OidcProvider, running_provider

REALM = json.loads((DEPLOY / "keycloak" / "realm.json").read_text())
(CLIENT,) = REALM["clients"]
ROLES = [role["name"] for role in REALM["roles"]["realm"]]


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    """Found at one address, within the stack, and named by another, as KC_HOSTNAME_BACKCHANNEL_DYNAMIC has it."""
    keycloak = read_compose({"SAM_HOST": "sam.hospital.example"})["services"]["keycloak"]["environment"]
    with running_provider() as running:
        running.issuer = f"{keycloak['KC_HOSTNAME']}/realms/{REALM['realm']}"
        yield running


@pytest.fixture
def server_environment() -> dict[str, str]:
    compose = read_compose({"SAM_HOST": "sam.hospital.example", "SAM_KEYCLOAK": "true"})
    environment: dict[str, str] = compose["services"]["server"]["environment"]
    return environment


def mapped(username: str, name: str, roles: list[str]) -> dict[str, Any]:
    """An access token's claims, as the client's mappers in the realm file make them of a user, and no others."""
    values = {
        "oidc-usermodel-realm-role-mapper": roles,
        "oidc-usermodel-attribute-mapper": username,
        "oidc-full-name-mapper": name,
    }
    claims: dict[str, Any] = {}
    for mapper in CLIENT["protocolMappers"]:
        kind, config = mapper["protocolMapper"], mapper["config"]
        assert config["access.token.claim"] == "true"
        if kind == "oidc-audience-mapper":
            claims["aud"] = config["included.client.audience"]
            continue
        *path, last = config.get("claim.name", "name").split(".")
        inner = claims
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = values[kind]
    return claims


def token(provider: OidcProvider, **claims: Any) -> str:
    """With nothing that the provider of other tests would add by itself."""
    none = dict.fromkeys(("aud", "azp", "realm_access", "name", "preferred_username", "email"))
    return provider.token(**{**none, **claims})


def user_of(provider: OidcProvider, given: str) -> Any:
    return asyncio.run(OidcVerifier(provider.address, CLIENT["clientId"], timeout=5).user_of(given))


def test_a_token_as_its_mappers_make_it_is_a_user_with_the_roles(provider):
    user = user_of(provider, token(provider, **mapped("anna", "Anna Ather", ROLES)))
    assert (user.username, user.name, user.roles) == ("anna", "Anna Ather", ROLES)
    assert user_of(provider, token(provider, **mapped("berta", "Berta", ROLES[:1]))).roles == ["monailabel-user"]


@pytest.mark.parametrize(
    "left_out", [mapper["name"] for mapper in CLIENT["protocolMappers"] if mapper["name"] != "full name"]
)
def test_each_mapper_is_needed(provider, monkeypatch, left_out):
    monkeypatch.setitem(
        CLIENT, "protocolMappers", [one for one in CLIENT["protocolMappers"] if one["name"] != left_out]
    )
    given = token(provider, **mapped("anna", "Anna Ather", ROLES))
    if left_out == "roles":
        assert user_of(provider, given).roles == []
    else:
        with pytest.raises(InvalidLoginError):
            user_of(provider, given)


def test_a_password_is_asked_for_at_the_address_within_the_stack(provider):
    verifier = OidcVerifier(provider.address, CLIENT["clientId"], timeout=5)
    assert asyncio.run(verifier.token_for("berta", PASSWORD)).token_type == "Bearer"


def test_its_roles_are_those_that_the_server_asks_for():
    asked = (
        settings.MONAI_LABEL_AUTH_ROLE_USER,
        settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR,
        settings.MONAI_LABEL_AUTH_ROLE_ADMIN,
    )
    assert tuple(ROLES) == asked


def test_its_client_is_the_servers_and_can_do_what_the_server_does_and_no_more(server_environment):
    """The server sends user name and password with the client's id, without a secret; no browser is redirected."""
    assert CLIENT["clientId"] == server_environment["MONAI_LABEL_AUTH_CLIENT_ID"]
    assert CLIENT["publicClient"] is CLIENT["directAccessGrantsEnabled"] is CLIENT["enabled"] is True
    for flow in ("standardFlowEnabled", "implicitFlowEnabled", "serviceAccountsEnabled"):
        assert CLIENT[flow] is False
    assert CLIENT["redirectUris"] == CLIENT["webOrigins"] == []
    assert REALM["defaultSignatureAlgorithm"] == ALGORITHM
    assert REALM["registrationAllowed"] is False and REALM["bruteForceProtected"] is True


def test_the_server_asks_the_realm_where_it_is(server_environment):
    assert server_environment["MONAI_LABEL_AUTH_ENABLE"] == "true"
    address = server_environment["MONAI_LABEL_AUTH_REALM_URI"]
    relative = "/keycloak"
    assert address == f"http://keycloak:8080{relative}/realms/{REALM['realm']}"
    assert f"KC_HTTP_RELATIVE_PATH={relative}" in (DEPLOY / "Dockerfile").read_text()
    keycloak = read_compose({"SAM_HOST": "sam.hospital.example"})["services"]["keycloak"]["environment"]
    assert keycloak["KC_HOSTNAME"] == f"https://sam.hospital.example{relative}"
    assert f"handle {relative}/*" in (DEPLOY / "caddy" / "Caddyfile").read_text()
