"""MONAI Label's roles, and its users as the users of this server.

As in MONAI Label, no role includes another: a route requires one role by name, and an administrator who also wants to
segment needs the role of a user as well. Without a login everybody is MONAI Label's default user.
"""

from typing import Annotated

from fastapi import Depends
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC
from monailabel.endpoints.user.auth import User as MonaiUser

from lib.server.auth.users import User

SEGMENTING = RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER)
LABELLING = RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR)
"""Raises for a user without the role to store labels, which ``PUT /datastore/label`` requires."""

SegmentingUser = Annotated[MonaiUser, Depends(SEGMENTING)]
"""The parameter type of a route that also asks for further roles of the user."""


async def segmenting_user(user: SegmentingUser) -> User:
    """Return the user of the request, who has the role that segmentation requires."""
    if not settings.MONAI_LABEL_AUTH_ENABLE:
        return User(user.username)
    return User(user.username, settings.MONAI_LABEL_AUTH_ROLE_ADMIN in user.roles, user.username)
