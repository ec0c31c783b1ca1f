"""The one seam to MONAI Label's server: the FastAPI app that ``start_server`` serves hands all requests on to ours."""

from __future__ import annotations

from starlette.types import ASGIApp


def serve(app: ASGIApp) -> None:
    """Have an app answer every request from now on; MONAI Label's own keeps the server's start and end alone.

    Called when MONAI Label has initialised its app, and before the first request. That app's lifespan, which this is
    called from, goes on in the stack that it began in.
    """
    from monailabel.app import app as upstream  # it reads the settings, and prints, when it is imported

    upstream.middleware_stack = app
