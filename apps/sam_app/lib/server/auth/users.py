"""The user of a request, and the rights of users.

The roles are those of MONAI Label, and as there no role includes another: a route requires one role by name, and an
administrator who also wants to segment needs the role of a user as well.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

_ANNOTATOR = RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR)

CurrentUser = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]
"""The parameter type of a route that requires the role of a user. Without a login it is MONAI Label's default user."""


async def check_may_label(user: User) -> None:
    """Raise unless a user has the role to store labels, which ``PUT /datastore/label`` requires.

    Raises:
        HTTPException: 403 if the user lacks the role.
    """
    await _ANNOTATOR(user)


def sharer(username: str) -> str:
    """Return the user whose share of limited resources a request takes; empty without a login, when all are one user.

    Args:
        username: The user of the request.
    """
    return username if settings.MONAI_LABEL_AUTH_ENABLE else ""


def may_see(user: User, owner: str) -> bool:
    """Return whether a user may see an owner's results: without a login and as an administrator always.

    Args:
        user: The user of the request.
        owner: ``username`` of the user who made the results.
    """
    if not settings.MONAI_LABEL_AUTH_ENABLE or settings.MONAI_LABEL_AUTH_ROLE_ADMIN in user.roles:
        return True
    return user.username == owner
