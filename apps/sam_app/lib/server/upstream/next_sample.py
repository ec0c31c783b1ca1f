"""Fix: MONAI Label 0.8.5 returns the image's path on the server from ``/activelearning/{strategy}``.

3D Slicer opens that path if such a file exists, and downloads the image otherwise, as it now always does.
"""

from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.utils.app import app_instance

from lib.server.upstream.arguments import without_path
from lib.server.upstream.guarded_routes import Guard
from lib.studies.storable import check_storable


def _known_strategy(strategy: str) -> str:
    known = app_instance()._strategies
    if strategy not in known:
        raise HTTPException(404, f"there is no strategy {strategy!r}; the strategies are: {', '.join(known)}")
    return strategy


def _without_strategy(params: dict[str, Any] | None) -> dict[str, Any]:
    """Return params without ``strategy``, which upstream would prefer to the path's; their client id is noted later."""
    check_storable(params or {})
    return {key: value for key, value in (params or {}).items() if key != "strategy"}


GUARDS = {
    "POST /activelearning/{strategy}": Guard(
        {"strategy": _known_strategy, "params": _without_strategy}, clean=without_path
    ),
}
