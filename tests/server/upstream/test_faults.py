"""The table of MONAI Label's faults is true, whole and the same as in the documentation."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest

import main
from lib.server.upstream import check
from lib.server.upstream.check import check_upstream
from lib.server.upstream.faults import FAULTS, WRITTEN_FOR
from lib.server.upstream.guarded_routes import UpstreamError
from support.in_process import made_app
from support.server_process import REPOSITORY

LIB = REPOSITORY / "apps" / "sam_app" / "lib"
ABOUT_ALL = {"server/upstream/faults.py"}


def test_no_two_faults_have_one_id():
    ids = [fault.id for fault in FAULTS]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.id for fault in FAULTS])
def test_its_file_and_its_test_exist(fault):
    assert (LIB / fault.file).is_file()
    path, _, name = fault.test.partition("::")
    assert re.search(rf"^ *def {name}\(", (REPOSITORY / "tests" / path).read_text(), re.MULTILINE)


def test_every_file_that_names_the_version_is_in_the_table():
    naming = {str(path.relative_to(LIB)) for path in LIB.rglob("*.py") if WRITTEN_FOR in path.read_text()}
    assert naming - ABOUT_ALL <= {fault.file for fault in FAULTS}


def test_the_documentation_has_the_same_table():
    rows = [f"| `{one.id}` | {one.wrong} | `{one.file}` | `{one.test}` |" for one in FAULTS]
    page = (REPOSITORY / "docs" / "upstream.md").read_text()
    documented = [line for line in page.splitlines() if line.startswith("| `")]
    assert documented == rows, "the table of docs/upstream.md should be:\n" + "\n".join(rows)
    assert f"MONAI Label {WRITTEN_FOR}" in page


def test_the_pinned_version_is_that_of_the_table():
    assert f"monailabel=={WRITTEN_FOR}" in (REPOSITORY / "requirements.txt").read_text()
    check_upstream(any_version=False)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"relies_on": ("monailabel.endpoints.infer:send_response(datastore)",)}, "has no monailabel.endpoints.infer:"),
        ({"relies_on": ("monailabel.endpoints.infer:reply()",)}, "by which its fault cors is repaired"),
        ({"relies_on": ("monailabel.nothing:reply()",)}, "has no monailabel.nothing:reply()"),
        (
            {"file": "server/upstream/nothing.py"},
            "is not repaired: nothing imports server/upstream/nothing.py",
        ),
    ],
)
def test_what_a_fault_relies_on_must_be_there_whatever_the_version(changed, said):
    fault = next(fault for fault in FAULTS if fault.id == "cors")
    with pytest.raises(UpstreamError, match=said):
        check_upstream(any_version=True, faults=[replace(fault, **changed)])


def test_an_unknown_version_is_refused_in_one_sentence_unless_the_operator_takes_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(check, "version", lambda name: "1.0.0rc2")
    said = r"Cannot start: this app repairs MONAI Label 0\.8\.5, and 1\.0\.0rc2 is installed"
    monkeypatch.setattr(sys, "tracebacklimit", 1000, raising=False)  # which refusing sets, and is put back
    with pytest.raises(SystemExit, match=said), made_app(tmp_path / "refused"):
        pass
    with made_app(tmp_path / "taken", upstream="unchecked") as app:
        assert isinstance(app, main.SamApp)
    assert "MONAI Label 1.0.0rc2 is unknown" in caplog.text
