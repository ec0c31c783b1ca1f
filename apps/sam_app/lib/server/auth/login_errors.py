"""Why a login is refused. The messages are made for clients; none quotes a key or a token."""

from __future__ import annotations

from typing import ClassVar


class AuthError(Exception):
    """A request is not let through."""

    status: ClassVar[int] = 401


class NoLoginError(AuthError):
    """The request names no user."""


class InvalidLoginError(AuthError):
    """The key, token or password is not one that holds."""


class ForeignPageError(AuthError):
    """A browser sent the request of a page that may not use this server, or its user's login along with it."""

    status = 403


class ForeignHostError(AuthError):
    """The request asks for a server of another name."""

    status = 421


class ProviderError(AuthError):
    """The OpenID Connect provider, which alone can tell, does not answer as it should."""

    status = 503
