"""What is left out of the environment: the list, the lock that is made by it, and MONAI Label's modules without it."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from left_out import LEFT_OUT, LeftOut, overrides
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
STAND_INS = [(module, left_out) for left_out in LEFT_OUT for module in left_out.stand_ins]


def run_python(code: str, **environment: str) -> str:
    """Runs the environment's Python anywhere, as ``monailabel`` on the command line does."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("module", "left_out"), STAND_INS, ids=lambda value: getattr(value, "package", value))
def test_a_stand_in_says_what_is_missing_when_it_is_called(module: str, left_out: LeftOut) -> None:
    stand_in = importlib.import_module(module)
    with pytest.raises(ModuleNotFoundError) as raised:
        stand_in.anything("a call", with_any="argument")
    assert raised.value.name == left_out.module
    assert str(raised.value) == (
        f"{module}.anything needs {left_out.package}, which this installation leaves out ({left_out.reason})"
    )
    assert not hasattr(stand_in, "__all__")


def test_a_class_of_a_stand_in_can_be_a_base_class() -> None:
    post = importlib.import_module("monailabel.transform.post")

    class Mine(post.LargestCCd):
        pass

    with pytest.raises(ModuleNotFoundError, match="shapely"):
        Mine()


def test_packages_that_are_installed_all_the_same_are_used(tmp_path: Path) -> None:
    names = [module for module, _ in STAND_INS]
    code = f"from importlib.util import find_spec; print(*(find_spec(name).origin for name in {names}), sep='\\n')"
    assert run_python(code).splitlines() == ["None"] * len(names)
    for _, left_out in STAND_INS:
        (tmp_path / f"{left_out.module}.py").touch()
    origins = run_python(code, PYTHONPATH=str(tmp_path)).splitlines()
    for name, origin in zip(names, origins, strict=True):
        assert origin.endswith(name.replace(".", "/") + ".py")


def test_monai_label_can_be_imported_from_anywhere() -> None:
    modules = "monailabel.app, monailabel.main, monailabel.client, monailabel.datastore.dicom"
    assert run_python(f"import {modules}; print('imported')").endswith("imported")


def test_the_lock_has_nothing_that_is_left_out() -> None:
    locks = (
        "requirements.txt",
        *(f"requirements-{extra}.txt" for extra in ("docs", "dev", "ray")),
        "requirements.sizes",
    )
    for lock in locks:
        names = set(re.findall(r"^([a-z0-9][^= ]*)", (ROOT / lock).read_text(), re.MULTILINE))
        assert len(names) > 20
        assert not names & {left_out.package for left_out in LEFT_OUT}, lock


def test_everything_on_the_list_is_asked_for_by_an_installed_package() -> None:
    asked = {
        canonicalize_name(Requirement(line).name)
        for distribution in distributions()
        for line in distribution.requires or ()
    }
    assert {left_out.package for left_out in LEFT_OUT} <= asked


def test_overrides_are_requirements_that_never_apply() -> None:
    requirements = [Requirement(line) for line in overrides().splitlines()]
    assert [requirement.name for requirement in requirements] == [left_out.package for left_out in LEFT_OUT]
    assert not any(requirement.marker.evaluate() for requirement in requirements)
    assert run_python(
        f"import runpy; runpy.run_path({str(ROOT / 'apps/sam_app/site/left_out.py')!r}, run_name='__main__')"
    )


def test_the_table_in_the_docs_is_this_list() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", (ROOT / "docs" / "installation.md").read_text(), re.MULTILINE)
    assert rows == [(left_out.package, left_out.reason) for left_out in LEFT_OUT]
