"""Who is clicking: what tells one client's state from another's.

3D Slicer sends a ``client_id``. OHIF sends none, so that its start page comes with a random cookie, which the browser
sends with each click; one that keeps none, or shows an OHIF of another server, has no state, and each of its clicks
starts afresh. With a login the user's name is part of the key, so that nobody can take over a client by its id.
"""

from __future__ import annotations

import re
import secrets

from fastapi import Request, Response

COOKIE = "SAM-Client"


def client_key(request: Request, user: str, client_id: object) -> str | None:
    """The key of the client that asks; None if it cannot be told from others.

    Args:
        request: May have the cookie.
        user: Who asks, by login; the same for all while there is none.
        client_id: As the client sent it.
    """
    if isinstance(client_id, str) and 0 < len(client_id) <= 200:
        return f"{user}|id|{client_id}"
    browser = browser_key(request)
    return f"{user}|{browser}" if browser else None


def browser_key(request: Request) -> str | None:
    """The key of the browser that asks; None if it has no cookie."""
    cookie = request.cookies.get(COOKIE, "")
    return f"cookie|{cookie}" if re.fullmatch(r"[0-9a-f]{32}", cookie) else None


def give_cookie(request: Request, response: Response) -> None:
    """Have a browser that has no key come back with one."""
    if COOKIE not in request.cookies:
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, secrets.token_hex(16), secure=secure, httponly=True, samesite="strict")
