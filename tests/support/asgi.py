"""Requests to an ASGI app in this process."""

from __future__ import annotations

import asyncio

import httpx
from starlette.types import ASGIApp


def ask(app: ASGIApp, method: str, path: str, **kwargs) -> httpx.Response:
    """Send one request and answer what came back; an error of the app is its 500, as with a real server."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("192.0.2.7", 50000))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, path, **kwargs)

    return asyncio.run(send())
