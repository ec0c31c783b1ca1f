"""What a configuration file of Ray Serve's says of the app's workers."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from support.server_process import REPOSITORY

_APPLICATION = REPOSITORY / "apps" / "sam_app" / "lib" / "workers" / "application.py"


def assert_is_the_apps(applications: Mapping[str, Mapping[str, Any]]) -> None:
    """See that applications, by their import paths, are the app's, at the paths that a server asks.

    Ray is not imported: it is no package that each installation has.
    """
    paths = {path: (one["name"], one["route_prefix"]) for path, one in applications.items()}
    assert paths == {
        "lib.workers.application:encoders": ("sam-encoders", "/encode"),
        "lib.workers.application:status": ("sam-workers", "/workers"),
    }
    functions = {one.name for one in ast.parse(_APPLICATION.read_text()).body if isinstance(one, ast.FunctionDef)}
    assert {path.partition(":")[2] for path in applications} <= functions
