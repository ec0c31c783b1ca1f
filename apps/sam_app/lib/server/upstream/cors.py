"""Fix: MONAI Label 0.8.5 allows every origin, with credentials.

A page of any site that the user has open could then read this server's responses. The origins are those of the
options instead; ``*`` there turns credentials off. (Setting MONAI_LABEL_CORS_ORIGINS, the upstream way, stops
``start_server`` with an error: its URL type cannot be written as JSON.)
"""

from collections.abc import Sequence

from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware


def cors(origins: Sequence[str]) -> Middleware:
    """Return the middleware that lets web pages of these origins read the responses."""
    return Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_credentials="*" not in origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=[
            "Content-Location",
            "Preference-Applied",
            "Retry-After",
            "SAM-Labels",
            "SAM-Notes",
            "SAM-Result",
            "Server-Timing",
            "X-Request-ID",
        ],
    )
