"""The user of a request, and what of others' work they may see.

The roles are MONAI Label's own, and as there none includes another: a route asks for one role by name, and an
administrator who also wants to segment needs the role of a user as well.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

_ANNOTATOR = RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR)

CurrentUser = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]
"""The parameter type of a route for users. While there is no login it is MONAI Label's default user."""


async def check_may_label(user: User) -> None:
    """Let a user pass who may store labels, as ``PUT /datastore/label`` asks for it.

    Raises:
        HTTPException: 403 if they lack the role.
    """
    await _ANNOTATOR(user)


def sharer(username: str) -> str:
    """Whose share of what is bounded a request takes: nobody's (empty) while there is no login and all are one user.

    Args:
        username: Of who asks.
    """
    return username if settings.MONAI_LABEL_AUTH_ENABLE else ""


def may_see(user: User, owner: str) -> bool:
    """Whether a user may see what someone made: all of it while there is no login, and as an administrator.

    Args:
        user: Who asks.
        owner: ``username`` of who made it.
    """
    if not settings.MONAI_LABEL_AUTH_ENABLE or settings.MONAI_LABEL_AUTH_ROLE_ADMIN in user.roles:
        return True
    return user.username == owner
