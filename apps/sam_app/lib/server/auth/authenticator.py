"""Identification of a request's user by the ``Authorization`` header.

``Bearer`` with an API key or, if a provider is set up, with an OpenID Connect token. ``Basic`` with an API key's name
and the key: browsers send it after they have asked their user. This is how OHIF can log in, although its MONAI Label
plugin does not support a login.
"""

import base64
import logging
from datetime import UTC, datetime
from pathlib import Path

from monailabel.config import settings
from monailabel.endpoints.user.auth import Token, User

from lib.server.auth.api_keys import ApiKey
from lib.server.auth.key_file import KeyFile, KeyRing
from lib.server.auth.login_errors import InvalidLoginError, NoLoginError
from lib.server.auth.oidc import OidcVerifier

logger = logging.getLogger(__name__)


class Authenticator:
    """Identifies users by API key, by OpenID Connect, or by either.

    Args:
        keys: The API keys; None: no key is accepted.
        oidc: The OpenID Connect provider; None: tokens are not accepted, and no provider is ever contacted.
    """

    def __init__(self, keys: KeyRing | None, oidc: OidcVerifier | None) -> None:
        self._keys = keys
        self.oidc = oidc

    @property
    def challenges(self) -> tuple[str, ...]:
        """The values of ``WWW-Authenticate`` for a response with status 401."""
        return ("Bearer",) if self._keys is None else ("Bearer", 'Basic realm="SAM app", charset="UTF-8"')

    async def user_of(self, authorization: str) -> User:
        """Return the user of a request.

        Args:
            authorization: The ``Authorization`` header's value, empty without the header.

        Raises:
            NoLoginError: If it is neither ``Bearer`` nor ``Basic``, or has no credentials.
            InvalidLoginError: If the key or token is not valid.
            ProviderError: If the provider is needed to check a token, and cannot be reached.
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
        if self.oidc is not None:
            return await self.oidc.user_of(credentials)
        raise InvalidLoginError("there is no such API key")

    async def token_for(self, username: str, password: str) -> Token:
        """Return the token that a client is to send as ``Bearer``; for an API key's name and the key, the key itself.

        Raises:
            InvalidLoginError: If there is no such user, or the password is wrong.
            ProviderError: If the provider is needed to check the password, and cannot be reached.
        """
        if self._keys is not None and self._keys.find(password) is not None:
            _user(self._key_of(password, username))
            return Token(access_token=password, token_type="bearer")  # noqa: S106 - a kind of token
        if self.oidc is not None:
            return await self.oidc.token_for(username, password)
        raise InvalidLoginError("the user name or the password is wrong; they are an API key's name and the key")

    def _key_of(self, key: str, name: str) -> ApiKey:
        entry = self._keys.find(key) if self._keys is not None else None
        if entry is None or entry.name != name:
            raise InvalidLoginError("this name has no such API key")
        return entry


def make_authenticator(key_file: Path | None) -> Authenticator | None:
    """The login that the operator asked for: by API keys in a file, by OpenID Connect in MONAI Label's settings.

    Returns:
        None if a login by neither is asked for.

    Raises:
        KeyFileError: If the file of keys cannot be used.
    """
    keys = oidc = None
    if key_file is not None:
        keys = KeyRing(KeyFile(key_file))
        logger.info("Login by API key: %s", key_file)
    if settings.MONAI_LABEL_AUTH_ENABLE:
        realm = settings.MONAI_LABEL_AUTH_REALM_URI
        oidc = OidcVerifier(realm, settings.MONAI_LABEL_AUTH_CLIENT_ID, settings.MONAI_LABEL_AUTH_TIMEOUT)
        logger.info("Login by OpenID Connect: %s", realm)
    return Authenticator(keys, oidc) if keys or oidc else None


def _decode_basic(credentials: str) -> tuple[str, str]:
    """Return user name and password from ``Basic`` credentials (RFC 7617)."""
    try:
        name, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except ValueError:
        raise InvalidLoginError("the login is not a user name and password in base64") from None
    return name, password


def _user(key: ApiKey) -> User:
    """Return the user of a key; the prefix ``key:`` distinguishes the name from those of the provider's users.

    Raises:
        InvalidLoginError: If the key has expired.
    """
    if key.has_expired(datetime.now(UTC)):
        raise InvalidLoginError(f"the API key {key.name!r} has expired")
    roles = [getattr(settings, f"MONAI_LABEL_AUTH_ROLE_{role.upper()}") for role in key.roles]
    return User(username=f"key:{key.name}", name=key.name, roles=roles)
