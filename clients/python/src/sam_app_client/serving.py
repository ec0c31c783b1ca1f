"""Operations on the server itself: its state, trainings, and what was learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sam_app_client.base import BaseClient
from sam_app_client.exchange import Operation, Request, ask, segment_of_path, until
from sam_app_client.results import Health, LearnedModel, LearnedVersion, Training

_LOOK_S = 2.0


def health(client: BaseClient[Any]) -> Operation[Health]:
    """Return the server's state; needs no key.

    Raises:
        ApiError, ConnectionFailedError, VersionMismatchError: If it does not tell.
    """
    answer = yield from ask(Request("GET", "/health_check/", also=[503]))
    told = answer.json()
    same = ("status", "detail", "version", "models", "model_facts", "default_model", "device")
    return Health(**{name: told[name] for name in same}, running=told["queue"]["running"], limit=told["queue"]["limit"])


def train(
    client: BaseClient[Any], model: str, *, teach: str = "everything", minutes: float | None = None
) -> Operation[Training]:
    """Start to teach a model from the accepted labels; needs the role admin where there is a login.

    Args:
        model: Such as ``sam_tiny``.
        teach: ``everything``, ``prompts``, ``labels``, or the name of one label.
        minutes: Of computing; without it what the server suggests.

    Raises:
        ApiError: If there is nothing to learn from, or a training is running already.
        ConnectionFailedError, VersionMismatchError: If the server cannot be asked.
    """
    params = {"teach": teach, **({} if minutes is None else {"minutes": minutes})}
    answer = yield from ask(Request("POST", f"/train/{segment_of_path(model)}", json=params))
    return _training(answer.json())


def training(client: BaseClient[Any]) -> Operation[Training | None]:
    """Return how far the latest training is; None if there was none since the server started.

    Raises:
        ApiError, ConnectionFailedError, VersionMismatchError: If the server does not tell.
    """
    answer = yield from ask(Request("GET", "/train/", also=[404]))
    return None if answer.status_code == 404 else _training(answer.json())


def wait_for_training(
    client: BaseClient[Any], *, within: float = 3600.0, on_progress: Callable[[Training], None] | None = None
) -> Operation[Training]:
    """Wait until the latest training has ended, and return what came of it.

    Args:
        within: Seconds to wait at most.
        on_progress: Told every other second how far it is.

    Raises:
        NotFinishedError: If it has not ended in time.
        ApiError: Status 404 if there was none.
        ConnectionFailedError, VersionMismatchError: If the server cannot be asked.
    """

    def look() -> Operation[tuple[Training | None, float]]:
        answer = yield from ask(Request("GET", "/train/"))
        now = _training(answer.json())
        if on_progress:
            on_progress(now)
        return (None if now.status == "RUNNING" else now), _LOOK_S

    return (yield from until(look, within=within, unfinished="the training is still running"))


def stop_training(client: BaseClient[Any]) -> Operation[Training | None]:
    """End the running training; what it has taught before stays. Needs the role admin where there is a login.

    Returns:
        How far it is; None if none is running.

    Raises:
        ApiError, ConnectionFailedError, VersionMismatchError: If the server does not do it.
    """
    answer = yield from ask(Request("DELETE", "/train/"))
    told = answer.json()
    return None if told is None else _training(told)


def learned(client: BaseClient[Any]) -> Operation[list[LearnedModel]]:
    """Return what was learned on this server, by name.

    Raises:
        ApiError, ConnectionFailedError, VersionMismatchError: If it does not tell.
    """
    answer = yield from ask(Request("GET", "/versions/"))
    return [_learned(one) for one in answer.json()]


def promote(client: BaseClient[Any], name: str, version: int) -> Operation[LearnedModel]:
    """Have a version served from now on; needs the role admin where there is a login.

    Args:
        name: Of a model or label, as ``learned`` has it.
        version: Its number.

    Raises:
        ApiError: If there is no such version, or it is damaged.
        ConnectionFailedError, VersionMismatchError: If the server cannot be asked.
    """
    answer = yield from ask(Request("POST", f"/versions/{segment_of_path(name)}/promote", {"version": str(version)}))
    return _learned(answer.json())


def rollback(client: BaseClient[Any], name: str) -> Operation[LearnedModel]:
    """Have served what was served before; needs the role admin where there is a login.

    Args:
        name: Of a model or label, as ``learned`` has it.

    Raises:
        ApiError: If nothing was learned under this name.
        ConnectionFailedError, VersionMismatchError: If the server cannot be asked.
    """
    answer = yield from ask(Request("POST", f"/versions/{segment_of_path(name)}/rollback"))
    return _learned(answer.json())


def _training(told: Mapping[str, Any]) -> Training:
    return Training(told["status"], float(told["progress"]), tuple(told["details"]), told)


def _learned(told: Mapping[str, Any]) -> LearnedModel:
    names = ("version", "created", "verdict", "learned", "held_out")
    versions = tuple(LearnedVersion(**{name: one[name] for name in names}) for one in told["versions"])
    return LearnedModel(told["name"], told["served"], versions)
