"""Check that MONAI Label is the version that :data:`~lib.server.upstream.faults.FAULTS` was written for."""

import inspect
import logging
import sys
from collections.abc import Iterable
from functools import reduce
from importlib import import_module
from importlib.metadata import version
from typing import Any

from lib.server.upstream.faults import FAULTS, WRITTEN_FOR, Fault
from lib.server.upstream.guarded_routes import UpstreamError

logger = logging.getLogger(__name__)


def check_upstream(*, any_version: bool, faults: Iterable[Fault] = FAULTS) -> None:
    """Check MONAI Label's version, and that the fixes of its faults are in use and find what they rely on.

    Args:
        any_version: Whether to accept another version, with a warning.
        faults: The faults that are fixed.

    Raises:
        UpstreamError: Otherwise; the message says what to do.
    """
    found = version("monailabel")
    if found != WRITTEN_FOR and not any_version:
        raise UpstreamError(
            f"this app repairs MONAI Label {WRITTEN_FOR}, and {found} is installed: install {WRITTEN_FOR} (scripts/"
            "setup does), or try it with --conf upstream unchecked, where what is repaired here may be open again"
        )
    if found != WRITTEN_FOR:
        logger.warning("MONAI Label %s is unknown: its faults are repaired as those of %s", found, WRITTEN_FOR)
    for fault in faults:
        if f"lib.{fault.file.removesuffix('.py').replace('/', '.')}" not in sys.modules:
            raise UpstreamError(f"the fault {fault.id} of MONAI Label is not repaired: nothing imports {fault.file}")
        for function in fault.relies_on:
            if _signature(function) != function:
                raise UpstreamError(f"MONAI Label {found} has no {function}, by which its fault {fault.id} is repaired")


def _signature(function: str) -> str | None:
    """Return the actual ``module:name(arguments)`` of a function; None if it does not exist."""
    module, _, rest = function.partition(":")
    name = rest.partition("(")[0]
    try:
        found: Any = reduce(getattr, name.split("."), import_module(module))
    except (ImportError, AttributeError):
        return None
    return f"{module}:{name}({', '.join(inspect.signature(found).parameters)})"
