"""Mend: MONAI Label 0.8.5 allows every origin, with credentials.

A page of any site that the user has open could then read what this server answers. The origins are those of the
options instead; ``*`` there turns credentials off. (Setting MONAI_LABEL_CORS_ORIGINS, the upstream way, stops
``start_server`` with an error: its URL type cannot be written as JSON.)
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware


def restrict_cors(app: FastAPI, origins: Sequence[str]) -> None:
    """Replace the app's CORS middleware by one for these origins; takes effect with the next middleware stack."""
    others = [middleware for middleware in app.user_middleware if middleware.cls is not CORSMiddleware]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_credentials="*" not in origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Retry-After", "SAM-Result", "Server-Timing", "X-Request-ID"],
    )
    app.user_middleware = [cors, *others]
