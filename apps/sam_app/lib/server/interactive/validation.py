"""Validation of JSON that is no body: a header, or a part of a form."""

from __future__ import annotations

from typing import TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

_Model = TypeVar("_Model", bound=BaseModel)


def validated_json(kind: type[_Model], text: str, *where: str) -> _Model:
    """Return a JSON object as a model.

    Args:
        kind: The model.
        text: The JSON.
        where: Its place in the request, for the error's ``loc``.

    Raises:
        RequestValidationError: If it is none; the values themselves are not in it.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**fault, "loc": (*where, *fault["loc"])} for fault in faults]) from None
