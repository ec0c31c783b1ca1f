"""Fix: MONAI Label 0.8.5 serves routes that this app does not need, and that give a client control of the server.

They read and replace checkpoints, start processes with a client's parameters, read any image by its path, and show logs
with paths and names. Here they return 404 with what to do instead. ``POST /reload`` would load the app again without
its fixes, and needs no login.
"""

from collections.abc import Callable
from typing import NoReturn

from fastapi import APIRouter, Depends, HTTPException
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC

_ANY_METHOD = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

_REFUSED = {
    "/infer/wsi/{rest:path}": "there are no models for whole-slide images",
    "/infer/wsi_v2/{rest:path}": "there are no models for whole-slide images",
    "/logs/{rest:path}": "the log is not served: it is in the folder of the app, logs/app.log",
    "/model/{rest:path}": "checkpoints are not served: scripts/weights manages them",
    "/reload": "the app is not reloaded: restart the server",
    "/scoring/{rest:path}": "there are no scoring methods",
}

router = APIRouter(include_in_schema=False, dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))])


def _refuse(reason: str) -> Callable[[], NoReturn]:
    def refuse() -> NoReturn:
        raise HTTPException(404, reason)

    return refuse


for _path, _reason in _REFUSED.items():
    router.add_api_route(_path, _refuse(_reason), methods=list(_ANY_METHOD), response_model=None)
