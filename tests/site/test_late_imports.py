"""What MONAI Label's server imports only when it is used, and what is not imported before the server is there."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from late_imports import LATE, LateName

ROOT = Path(__file__).resolve().parents[2]
NOT_NEEDED_TO_START = (
    *("monai", "ignite", "jsonschema", "matplotlib", "pandas", "sklearn", "skimage", "sympy", "triton"),
    *("torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "nncf", "sam2", "hydra", "highdicom"),
)
"""Packages and modules that take long to import, and that neither a start nor a click needs."""


PRINT_MODULES = "import sys; print(*sys.modules, flush=True)"


def run(code: str) -> list[str]:
    """What the environment's Python prints, line by line."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_server_imports_nothing_that_its_start_does_not_need_until_the_model_is_loaded() -> None:
    app = ROOT / "apps" / "sam_app"
    lines = run(
        f"""
import sys, time
import monailabel.app
sys.path.insert(0, {str(app)!r})
import main
from lib.sam.engine import Engine
from lib.sam.models.registry import MODELS
from lib.server.rest.health import HealthReport
engine = Engine([MODELS["sam_tiny"]], main.Path({str(app / "model")!r}), device="cpu")
engine.predictor("sam_tiny")
{PRINT_MODULES}
HealthReport(engine, None)
while "lib.imaging.labels.anatomy_codes" not in sys.modules:
    time.sleep(0.01)
{PRINT_MODULES}
"""
    )
    modules, later = (set(line.split()) for line in lines[-2:])
    assert "highdicom.seg" in later - modules
    assert "lib.server.app" in modules and "torch" in modules
    assert modules.isdisjoint(NOT_NEEDED_TO_START), sorted(modules & set(NOT_NEEDED_TO_START))


@pytest.mark.parametrize("name", LATE)
def test_a_module_only_calls_what_it_imports_late_or_asks_for_instances_of_it(name: str) -> None:
    package, *parts = name.split(".")
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None
    tree = ast.parse(Path(spec.submodule_search_locations[0], *parts).with_suffix(".py").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module in LATE[name]]
    assert {node.module for node in imports} == set(LATE[name])
    late = {alias.asname or alias.name for node in imports for alias in node.names}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {id(node.func) for node in calls}
    asked = {id(node.args[1]) for node in calls if isinstance(node.func, ast.Name) and node.func.id == "isinstance"}
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in late]
    assert all(id(node) in called | asked for node in uses)


def test_a_late_name_imports_and_calls_the_real_one() -> None:
    code = "from late_imports import LateName; name = LateName('wave', 'Error')"
    [before, said, after] = run(f"{code}; {PRINT_MODULES}; print(repr(name('too short'))); {PRINT_MODULES}")
    assert said == "Error('too short')"
    assert "wave" in set(after.split()) - set(before.split())


def test_a_late_name_has_the_instances_of_the_real_one() -> None:
    path = LateName("pathlib", "Path")
    assert isinstance(ROOT, path)  # type: ignore[arg-type]
    assert not isinstance(str(ROOT), path)  # type: ignore[arg-type]
