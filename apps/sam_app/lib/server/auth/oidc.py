"""Check of OpenID Connect tokens. Fixes the check of MONAI Label 0.8.5, which refuses every token.

Its ``jwt.decode`` names no algorithms, which PyJWT has required since 2.0; it checks neither issuer nor audience; it
never updates the realm's key; an unreachable provider or a wrong password ends in a 500 with a stack trace.

Here a token must be signed with RS256, Keycloak's default, by a key that the provider publishes, name the provider as
issuer, not have expired, and be issued for this server: this server's client id (``MONAI_LABEL_AUTH_CLIENT_ID``) is
either among the audiences (``aud``) or the party that the token was issued to (``azp``). Keycloak writes the client
that logged in into ``azp``, and into ``aud`` only with an audience mapper; else ``aud`` is ``account``.

The provider's addresses come from its discovery document and its keys from its key set, as OpenID Connect Discovery 1.0
says, so that tokens signed before a rotation of keys stay valid. Nothing is fetched before the first plausible token
arrives.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from functools import reduce
from typing import Any

import httpx
import jwt
from monailabel.config import settings
from monailabel.endpoints.user.auth import Token, User
from pydantic import ValidationError

from lib.server.auth.login_errors import InvalidLoginError, ProviderError

logger = logging.getLogger(__name__)

ALGORITHM = "RS256"
_KEYS_LIFETIME_S = 300.0
"""Older keys are fetched again, so that a key which the provider has withdrawn becomes invalid."""
_MIN_FETCH_INTERVAL_S = 5.0
"""Shortest time between two fetches, even if tokens name unknown keys or a fetch fails."""
_LEEWAY_S = 10.0
"""Allowed difference between the provider's clock and this server's."""


@dataclass(frozen=True)
class _Provider:
    """Addresses and keys published by the provider, and the time of fetching them (monotonic seconds)."""

    issuer: str
    token_endpoint: str
    keys: dict[str, jwt.PyJWK]
    fetched: float

    @property
    def is_stale(self) -> bool:
        return time.monotonic() - self.fetched > _KEYS_LIFETIME_S


class OidcVerifier:
    """Identifies users by their tokens, and gets tokens for their passwords.

    Used on the event loop; its lock is held during a fetch from the provider, so that concurrent requests share one.

    Args:
        realm_uri: The provider's issuer address, for Keycloak ``https://HOST/realms/REALM``.
        client_id: The client id for which tokens must be issued.
        timeout: Time limit of a request to the provider, in seconds.
    """

    def __init__(self, realm_uri: str, client_id: str, timeout: float) -> None:
        self._realm_uri = realm_uri.rstrip("/")
        self._client_id = client_id
        self._timeout = timeout
        self._lock = asyncio.Lock()
        self._provider: _Provider | None = None
        self._next_fetch = 0.0

    async def user_of(self, token: str) -> User:
        """Return the user to whom a token was issued.

        Raises:
            InvalidLoginError: If it is not a valid token for this server.
            ProviderError: If the provider's keys are needed and cannot be fetched.
        """
        try:
            header = jwt.get_unverified_header(token)
            key_id = header.get("kid")
            if header.get("alg") != ALGORITHM or not isinstance(key_id, str):
                raise jwt.InvalidAlgorithmError(f"not signed with {ALGORITHM} by a named key")
            provider = await self._current(key_id)
            if key_id not in provider.keys:
                raise jwt.InvalidKeyError("signed by a key that the provider does not publish")
            claims = jwt.decode(
                token,
                provider.keys[key_id],
                algorithms=[ALGORITHM],
                issuer=provider.issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss"], "verify_aud": False},  # the audience is checked below
            )
            self._check_audience(claims)
            return _user(claims)
        except jwt.ExpiredSignatureError:
            raise InvalidLoginError("the token has expired: log in again") from None
        except jwt.PyJWTError as error:
            raise InvalidLoginError(f"the token is not valid: {error}") from None

    async def token_for(self, username: str, password: str) -> Token:
        """Get a token for a user name and a password (OAuth 2.0 resource owner password credentials).

        Raises:
            InvalidLoginError: If the provider refuses them.
            ProviderError: If it does not respond as expected.
        """
        provider = await self._current()
        form = {"client_id": self._client_id, "username": username, "password": password, "grant_type": "password"}
        try:
            async with httpx.AsyncClient(timeout=self._timeout) as client:
                answer = await client.post(provider.token_endpoint, data=form)
                content = answer.json()
            if answer.status_code in (400, 401):
                logger.warning("The OpenID Connect provider refused a login: %r", content.get("error"))
                raise InvalidLoginError("the user name or the password is wrong")
            answer.raise_for_status()
            return Token(access_token=content["access_token"], token_type=content["token_type"])
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unavailable(error) from None

    def _check_audience(self, claims: dict[str, Any]) -> None:
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if self._client_id not in audiences and claims.get("azp") != self._client_id:
            raise jwt.InvalidAudienceError(f"it was not issued for {self._client_id}")

    async def _current(self, key_id: str | None = None) -> _Provider:
        """Return the provider's addresses and keys; fetch them again, at a limited rate, if old or without this key.

        Raises:
            ProviderError: If they cannot be fetched, and those known are too old.
        """
        async with self._lock:
            known = self._provider
            needs_fetch = known is None or known.is_stale or (key_id is not None and key_id not in known.keys)
            if needs_fetch and time.monotonic() >= self._next_fetch:
                try:
                    self._provider = await self._fetch()
                except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
                    failure = _unavailable(error)
                    if known is None or known.is_stale:
                        raise failure from None
                finally:
                    self._next_fetch = time.monotonic() + _MIN_FETCH_INTERVAL_S
            if self._provider is None or self._provider.is_stale:
                raise _unavailable("the last fetch failed a moment ago")
            return self._provider

    async def _fetch(self) -> _Provider:
        async with httpx.AsyncClient(timeout=self._timeout) as client:
            found = await client.get(f"{self._realm_uri}/.well-known/openid-configuration")
            found.raise_for_status()
            configuration = found.json()
            published = await client.get(configuration["jwks_uri"])
            published.raise_for_status()
        keys = {
            key.key_id: key
            for key in jwt.PyJWKSet.from_dict(published.json())
            if key.key_id and key.algorithm_name == ALGORITHM and key.public_key_use in (None, "sig")
        }
        logger.info("Keys of %s: %s", configuration["issuer"], ", ".join(keys) or "none")
        return _Provider(configuration["issuer"], configuration["token_endpoint"], keys, time.monotonic())


def _unavailable(reason: object) -> ProviderError:
    logger.error("The OpenID Connect provider cannot be used: %s", f"{type(reason).__name__} {reason}")
    return ProviderError("the login service cannot be reached; try again in a few seconds")


def _user(claims: dict[str, Any]) -> User:
    """Return the user named by a token's claims; MONAI Label's settings say which claims to use.

    Raises:
        jwt.InvalidTokenError: If they name no user, or one that could be mistaken for an API key's.
    """
    path = settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#")
    try:
        user = User(
            username=claims[settings.MONAI_LABEL_AUTH_TOKEN_USERNAME],
            email=claims.get(settings.MONAI_LABEL_AUTH_TOKEN_EMAIL),
            name=claims.get(settings.MONAI_LABEL_AUTH_TOKEN_NAME),
            roles=reduce(lambda part, name: part.get(name) or {}, path, claims) or [],
        )
    except (KeyError, AttributeError, ValidationError):
        raise jwt.InvalidTokenError("its claims name no user with roles") from None
    if not user.username or user.username.startswith("key:"):
        raise jwt.InvalidTokenError("its user name cannot be used here")
    return user
