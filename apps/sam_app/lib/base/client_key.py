"""Keys that identify clients, so that each has its own state.

3D Slicer sends a ``client_id``. OHIF sends none, so its start page sets a random cookie, which the browser sends with
each click. A browser that refuses cookies, or shows an OHIF of another server, has no state: each of its clicks is
independent. With a login the user's name is part of the key, so that a client's id cannot be used by another user.
"""

import re
import secrets

from fastapi import Request, Response

COOKIE = "SAM-Client"


def client_key(request: Request, user: str, client_id: object) -> str | None:
    """Return the key of the client that sent a request; None if it cannot be distinguished from others.

    Args:
        request: The request, perhaps with the cookie.
        user: The name of the user; without a login the same for all.
        client_id: As the client sent it.
    """
    if isinstance(client_id, str) and 0 < len(client_id) <= 200:
        return f"{user}|id|{client_id}"
    browser = browser_key(request)
    return f"{user}|{browser}" if browser else None


def browser_key(request: Request) -> str | None:
    """Return the key of the browser that sent a request; None if it has no cookie."""
    cookie = request.cookies.get(COOKIE, "")
    return f"cookie|{cookie}" if re.fullmatch(r"[0-9a-f]{32}", cookie) else None


def set_client_cookie(request: Request, response: Response) -> None:
    """Set the cookie in a response, if the browser did not send one."""
    if COOKIE not in request.cookies:
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, secrets.token_hex(16), secure=secure, httponly=True, samesite="strict")
