"""Whose request it is, by its ``Authorization`` header.

``Bearer`` with an API key or, if it is none and a provider is set up, with an OpenID Connect token. ``Basic`` with an
API key's name and the key: what a browser sends after it has asked its user, which is how OHIF, whose MONAI Label
plugin knows no login, gets one all the same.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime

from monailabel.config import settings
from monailabel.endpoints.user.auth import Token, User

from lib.server.auth.api_keys import ApiKey
from lib.server.auth.key_file import KeyRing
from lib.server.auth.login_errors import InvalidLoginError, NoLoginError
from lib.server.auth.oidc import OidcVerifier


class Authenticator:
    """Tells users by API key, by OpenID Connect, or by either.

    Args:
        keys: The API keys; None: there are none.
        oidc: The provider; None: there is none, and nothing is ever asked of one.
    """

    def __init__(self, keys: KeyRing | None, oidc: OidcVerifier | None) -> None:
        self._keys = keys
        self._oidc = oidc

    @property
    def has_oidc(self) -> bool:
        """Whether there is an OpenID Connect provider."""
        return self._oidc is not None

    @property
    def challenges(self) -> tuple[str, ...]:
        """What ``WWW-Authenticate`` offers."""
        return ("Bearer",) if self._keys is None else ("Bearer", 'Basic realm="SAM app", charset="UTF-8"')

    async def user_of(self, authorization: str) -> User:
        """The user of a request.

        Args:
            authorization: The header's value, empty if there is none.

        Raises:
            NoLoginError: If it names no user in one of the two ways.
            InvalidLoginError: If the key or token does not hold.
            ProviderError: If only the provider could tell, and it cannot be reached.
        """
        scheme, _, credentials = authorization.partition(" ")
        credentials = credentials.strip()
        if scheme.lower() == "basic" and self._keys is not None:
            name, key = _decode_basic(credentials)
            return _user(self._key_of(key, name))
        if scheme.lower() != "bearer" or not credentials:
            raise NoLoginError("log in: send the header 'Authorization: Bearer', followed by a key or a token")
        entry = self._keys.find(credentials) if self._keys is not None else None
        if entry is not None:
            return _user(entry)
        if self._oidc is not None:
            return await self._oidc.user_of(credentials)
        raise InvalidLoginError("there is no such API key")

    async def token_for(self, username: str, password: str) -> Token:
        """What a client sends as ``Bearer`` from now on: for an API key's name and the key, the key itself.

        Raises:
            InvalidLoginError: If there is no such user, or the password is wrong.
            ProviderError: If only the provider could tell, and it cannot be reached.
        """
        if self._keys is not None and self._keys.find(password) is not None:
            _user(self._key_of(password, username))
            return Token(access_token=password, token_type="bearer")
        if self._oidc is not None:
            return await self._oidc.token_for(username, password)
        raise InvalidLoginError("the user name or the password is wrong; they are an API key's name and the key")

    def _key_of(self, key: str, name: str) -> ApiKey:
        entry = self._keys.find(key) if self._keys is not None else None
        if entry is None or entry.name != name:
            raise InvalidLoginError("there is no such API key of that name")
        return entry


def _decode_basic(credentials: str) -> tuple[str, str]:
    """User name and password, as of RFC 7617."""
    try:
        name, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except ValueError:
        raise InvalidLoginError("the login is no user name and password in base64") from None
    return name, password


def _user(key: ApiKey) -> User:
    """The user that a key stands for; ``key:`` before its name keeps it apart from the provider's users.

    Raises:
        InvalidLoginError: If the key has expired.
    """
    if key.has_expired(datetime.now(UTC)):
        raise InvalidLoginError(f"the API key {key.name!r} has expired")
    roles = [getattr(settings, f"MONAI_LABEL_AUTH_ROLE_{role.upper()}") for role in key.roles]
    return User(username=f"key:{key.name}", name=key.name, roles=roles)
