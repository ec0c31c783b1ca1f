"""How much is tried: a fixed, repeatable lot in every run, many times as much and always other ones in the long run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

LONG_FACTOR = 12

AMOUNTS = [
    pytest.param(lambda count: count, id="some"),
    pytest.param(
        lambda count: -count * LONG_FACTOR,
        id="many",
        marks=[pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(3600)],
    ),
]
"""Parameters of a test that is run by :func:`fuzz`; a negative number of cases asks for others each time."""


def fuzz(cases: int, *arguments: SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """``given`` with that many cases, without a time limit for each and without files of its own."""

    def decorate(function: Callable[..., None]) -> Callable[[], None]:
        chosen = settings(
            max_examples=abs(cases),
            derandomize=cases > 0,
            deadline=None,
            database=None,
            print_blob=cases < 0,
            suppress_health_check=list(HealthCheck),
        )
        return chosen(given(*arguments)(function))

    return decorate
