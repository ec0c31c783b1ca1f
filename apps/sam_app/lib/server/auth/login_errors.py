"""Errors for requests that are refused. Their messages can be shown to clients; none quotes a key or a token."""

from __future__ import annotations

from typing import ClassVar


class AuthError(Exception):
    """A request is refused."""

    status: ClassVar[int] = 401


class NoLoginError(AuthError):
    """The request has no login."""


class InvalidLoginError(AuthError):
    """The key, token or password is not valid."""


class ForeignPageError(AuthError):
    """A browser sent the request for a web page that may not use this server, or not with the user's login."""

    status = 403


class ForeignHostError(AuthError):
    """The request's ``Host`` is not a name of this server."""

    status = 421


class ProviderError(AuthError):
    """The OpenID Connect provider, which is needed to check the login, does not respond as expected."""

    status = 503
