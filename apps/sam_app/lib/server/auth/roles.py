"""MONAI Label's roles, and its users as the users of this server.

As in MONAI Label, no role includes another: a route requires one role by name, and an administrator who also wants to
segment needs the role of a user as well. Without a login everybody is MONAI Label's default user.
"""

from typing import Annotated

from fastapi import Depends, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import DEFAULT_USER, RBAC
from monailabel.endpoints.user.auth import User as MonaiUser

from lib.server.auth.users import User

SEGMENTING = RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER)
LABELLING = RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR)
"""Raises for a user without the role to store labels, which ``PUT /datastore/label`` requires."""

ADMINISTERING = RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN)

SegmentingUser = Annotated[MonaiUser, Depends(SEGMENTING)]
"""The parameter type of a route that also asks for further roles of the user."""


def monai_user(request: Request) -> MonaiUser:
    """Return MONAI Label's user of the request: who has logged in, or its default user while no login is needed."""
    user: MonaiUser = request.state.user if settings.MONAI_LABEL_AUTH_ENABLE else DEFAULT_USER
    return user


async def segmenting_user(request: Request) -> User:
    """Return the user of the request.

    Raises:
        HTTPException: 403 if the user lacks the role that segmentation requires.
    """
    user = await SEGMENTING(monai_user(request))
    if not settings.MONAI_LABEL_AUTH_ENABLE:
        return User(user.username)
    return User(user.username, settings.MONAI_LABEL_AUTH_ROLE_ADMIN in user.roles, user.username)
