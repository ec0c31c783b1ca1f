"""The only hook into MONAI Label's server: the FastAPI app that ``start_server`` serves passes all requests to ours."""

from starlette.types import ASGIApp


def serve(app: ASGIApp) -> None:
    """Serve every request with an app from now on; MONAI Label's own handles only the server's start and end.

    Called when MONAI Label has initialised its app, and before the first request. This is
    called from that app's lifespan, which continues in the middleware stack that it began in.
    """
    from monailabel.app import app as upstream  # it reads the settings, and prints, when it is imported

    upstream.middleware_stack = app
