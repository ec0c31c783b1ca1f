"""The user of a request, as the routes see it. MONAI Label's users and roles become these in :mod:`.roles`."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request


@dataclass(frozen=True)
class User:
    """A user who has the role that segmentation requires.

    Args:
        username: Owner of what this user's requests store.
        sees_all: Whether the user may see everybody's results: without a login, and as an administrator.
        share: Whose share of limited resources the user's requests take; empty without a login, when all are one user.
    """

    username: str
    sees_all: bool = True
    share: str = ""

    def may_see(self, owner: str) -> bool:
        """Return whether the user may see what was stored for ``owner``."""
        return self.sees_all or self.username == owner


async def current_user(request: Request) -> User:
    """Return the user of the request, found by ``app.state.find_user``.

    That is :func:`lib.server.auth.roles.segmenting_user`. It does not override this dependency, as FastAPI inspects an
    override anew for each request.
    """
    user: User = await request.app.state.find_user(request)
    return user


CurrentUser = Annotated[User, Depends(current_user)]
"""The parameter type of a route that requires the role of a user."""
