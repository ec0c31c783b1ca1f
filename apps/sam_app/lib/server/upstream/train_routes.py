"""Fix: MONAI Label 0.8.5 trains in a second server next to the first, with a client's parameters.

The app is loaded again, with its models, by a process that writes the same datastore at the same time, and whose
parameters are a client's. Here a training runs in a small process of its own, see :mod:`lib.learning.process`, which
gets the accepted labels' files and nothing else.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.utils.app import app_instance

from lib.base.request_record import note
from lib.dicomweb.datastore import for_inference
from lib.server.training import Training, Trainings
from lib.studies.storable import check_storable

router = APIRouter(tags=["Train"])

_User = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]
_Admin = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))]


@router.get("/train/", summary="How far training is")
def status(request: Request, user: _User, all: bool = False, check_if_running: bool = False) -> Any:
    """Return the latest training, or all recent ones; 404 if there is none, or none running if that is asked."""
    trainings: Trainings = request.app.state.trainings
    return trainings.runs.described(all=all, check_if_running=check_if_running)


@router.post("/train/", summary="Teach the default model from the accepted labels")
def run_default(
    request: Request, user: _Admin, params: dict[str, Any] | None = None, run_sync: bool = False
) -> dict[str, Any]:
    """Teach the default model: OHIF's button *Update Model*. ``params`` has the options by model, as in ``/info/``."""
    model = app_instance().engine.default_model
    given = (params or {}).get(model)
    return {model: _start(request, model, given if isinstance(given, dict) else {}, wait=run_sync).as_dict()}


@router.post("/train/{model}", summary="Teach a model from the accepted labels")
def run(
    request: Request, model: str, user: _Admin, params: dict[str, Any] | None = None, run_sync: bool = False
) -> dict[str, Any]:
    """Teach a model.

    ``params``: ``teach`` is ``everything``, ``prompts``, ``labels`` or the name of a label; ``minutes`` are those of
    all together. Other keys are ignored. With ``run_sync`` the response is sent at the end.
    """
    return _start(request, model, params or {}, wait=run_sync).as_dict()


@router.delete("/train/", summary="Stop training")
def stop(request: Request, user: _Admin) -> Any:
    """End the running training now; null if none is running. What it has taught before stays."""
    trainings: Trainings = request.app.state.trainings
    training = trainings.stop()
    return training.as_dict() if training else None


def _start(request: Request, model: str, given: dict[str, Any], *, wait: bool) -> Training:
    app = app_instance()
    task = app._trainers.get(model)
    if task is None:
        raise HTTPException(404, f"{model!r:.80} is not taught here; {', '.join(app._trainers)} can be")
    check_storable(given)
    task.check(given, app.datastore())
    note(model=model)
    trainings: Trainings = request.app.state.trainings
    shown: dict[str, Any] = {key: given[key] for key in ("teach", "minutes") if key in given}
    shown["model"] = model
    return trainings.start(lambda: task(given, for_inference(app.datastore())), shown, wait=wait)
