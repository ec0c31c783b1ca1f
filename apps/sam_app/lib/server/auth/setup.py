"""Put the login in front of the server, if the operator asked for one."""

from __future__ import annotations

import logging
import sys

from fastapi import FastAPI
from fastapi.middleware import Middleware
from monailabel.config import settings
from monailabel.endpoints.user.auth import get_current_user

from lib.server.auth import login
from lib.server.auth.authenticator import Authenticator
from lib.server.auth.exposure import warn_if_exposed
from lib.server.auth.gate import Gate, user_of_request
from lib.server.auth.key_file import KeyFile, KeyRing
from lib.server.auth.oidc import OidcVerifier
from lib.server.auth.openapi import describe_login
from lib.server.auth.pages import PageCheck, Pages, own_names
from lib.server.http.head import with_head
from lib.server.options import ServerOptions

logger = logging.getLogger(__name__)


def install(app: FastAPI, options: ServerOptions) -> None:
    """Keep other people's web pages out, and ask for a login if the operator wants one.

    There is one by API key if ``options`` name a file of keys, by OpenID Connect if MONAI Label's settings do; with
    neither of the two it warns if others can reach the server. Adds routes, which must come before MONAI Label's own,
    and the innermost middleware. Called once, before the first request.

    Raises:
        KeyFileError: If the file of keys cannot be used.
    """
    pages = Pages(own_names(options.hosts, sys.argv[1:]), options.cors_origins)
    _install_login(app, options, pages)
    app.user_middleware.append(Middleware(PageCheck, pages=pages))


def _install_login(app: FastAPI, options: ServerOptions, pages: Pages) -> None:
    with_oidc = settings.MONAI_LABEL_AUTH_ENABLE
    is_needed = with_oidc or options.api_keys is not None
    describe_login(app, is_needed=is_needed)
    if not is_needed:
        warn_if_exposed(sys.argv[1:])
        return
    keys = KeyRing(KeyFile(options.api_keys)) if options.api_keys is not None else None
    oidc = (
        OidcVerifier(
            settings.MONAI_LABEL_AUTH_REALM_URI,
            settings.MONAI_LABEL_AUTH_CLIENT_ID,
            settings.MONAI_LABEL_AUTH_TIMEOUT,
        )
        if with_oidc
        else None
    )
    settings.MONAI_LABEL_AUTH_ENABLE = True  # without it MONAI Label's RBAC lets everyone pass
    authenticator = Authenticator(keys, oidc)
    app.state.authenticator = authenticator
    app.dependency_overrides[get_current_user] = user_of_request
    app.include_router(with_head(login.router))
    app.user_middleware.append(Middleware(Gate, authenticator=authenticator, pages=pages))
    if keys is not None:
        logger.info("Login by API key: %s", options.api_keys)
    if oidc is not None:
        logger.info("Login by OpenID Connect: %s", settings.MONAI_LABEL_AUTH_REALM_URI)
