"""``/auth``: the login routes for 3D Slicer's module and MONAI Label's client, in place of MONAI Label's own.

Upstream has these routes only with OpenID Connect, blocks the event loop during requests to the provider and returns
500 for a wrong password. Here an API key's name and the key are accepted as well.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from fastapi.security import OAuth2PasswordRequestForm
from monailabel.config import settings
from monailabel.endpoints.user.auth import Token, User, get_current_user

from lib.server.auth.authenticator import Authenticator
from lib.server.auth.login_errors import AuthError, refuse
from lib.server.http.errors import ErrorDetail

router = APIRouter(tags=["Auth"])


@router.get("/auth/", summary="Whether a login is needed")
async def auth_enabled(request: Request) -> dict[str, Any]:
    """Return whether a login is needed (``enabled``) as MONAI Label does; without OpenID Connect the rest is null."""
    with_oidc = request.app.state.authenticator.oidc is not None
    return {
        "enabled": settings.MONAI_LABEL_AUTH_ENABLE,
        "client_id": settings.MONAI_LABEL_AUTH_CLIENT_ID if with_oidc else None,
        "realm": settings.MONAI_LABEL_AUTH_REALM_URI if with_oidc else None,
    }


@router.post(
    "/auth/token",
    summary="Log in",
    response_model=Token,
    responses={status: {"model": ErrorDetail} for status in (401, 503)},
)
async def access_token(request: Request, form: Annotated[OAuth2PasswordRequestForm, Depends()]) -> Token | JSONResponse:
    """Return the token to send as `Authorization: Bearer`, for a user name and a password.

    For an API key the user name is the key's name and the password is the key.
    """
    authenticator: Authenticator = request.app.state.authenticator
    try:
        return await authenticator.token_for(form.username, form.password)
    except AuthError as error:
        return refuse(error, request.scope, ("Bearer",))


@router.get("/auth/token/valid", summary="Who is logged in")
async def valid_token(user: Annotated[User, Depends(get_current_user)]) -> User:
    """Return the user to whom the key or token belongs."""
    return user
