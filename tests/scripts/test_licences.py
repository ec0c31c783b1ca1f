"""docs/licences.md says what the installed packages say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

import licences
import package_licences
from support.wheels import write_wheel

PAGE = licences.PAGE.read_text()


def test_the_page_has_the_table_of_the_lock() -> None:
    assert licences.with_table(PAGE) == PAGE, "docs/licences.md is not up to date: scripts/licences --write"
    assert len(licences.rows(PAGE)) == len(package_licences.locked(licences.LOCK)) > 100


def test_everything_copyleft_is_named() -> None:
    assert licences.not_named(PAGE) == []
    found = licences.copyleft_mentions()
    assert {"numpy", "scipy", "scikit-learn", "setuptools", "certifi", "tqdm"} <= found.keys()


@pytest.mark.parametrize("package", ["certifi", "numpy", "scikit-learn", "setuptools"])
def test_what_is_not_named_is_found(package: str) -> None:
    assert [line.split(" ")[0] for line in licences.not_named(PAGE.replace(f"`{package}`", ""))] == [package]


def test_a_table_that_is_behind_is_refused_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(licences, "PAGE", tmp_path / "licences.md")
    (version,) = (row.split(" | ")[1] for name, row in licences.rows(PAGE).items() if name == "pydicom")
    licences.PAGE.write_text(PAGE.replace(f"| `pydicom` | {version} |", "| `pydicom` | 1.0 |"))
    assert licences.main([]) == 1
    assert "docs/licences.md has another table: scripts/licences --write" in capsys.readouterr().err
    assert licences.main(["--write"]) == 0
    assert licences.PAGE.read_text() == PAGE


def test_rows_of_what_is_not_installed_here_stay_for_their_version_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(licences, "LOCK", tmp_path / "requirements.txt")
    licences.LOCK.write_text("of-another-python==2.0\ncolorama==1 ; sys_platform == 'win32'\n")
    page = PAGE.replace("| --- | --- | --- |\n| `", "| --- | --- | --- |\n| `of-another-python` | 2.0 | ISC |\n| `")
    assert licences.rows(page) == {"of-another-python": "| `of-another-python` | 2.0 | ISC |"}
    licences.LOCK.write_text("of-another-python==2.1\n")
    with pytest.raises(ValueError, match="the licence of of-another-python is not known: read it"):
        licences.rows(page)


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MIT AND (BSD-2-Clause OR ISC)\n", "unknown"),
        ("License-Expression: Apache-2.0 WITH LLVM-exception\nLicense: something\n", "Apache-2.0 WITH LLVM-exception"),
        ("License: Apache License 2.0\n", "Apache-2.0"),
        ("License: see LICENSE\nClassifier: License :: OSI Approved :: MIT License\n", "MIT"),
        ("License: GPL-3.0-or-later\n", "GPL-3.0-or-later"),
        ("License: BSD\n", "unknown"),
        ("", "unknown"),
    ],
)
def test_how_metadata_state_a_licence(tmp_path: Path, metadata: str, licence: str) -> None:
    write_wheel(tmp_path, "some_package", "1.0", metadata=metadata)
    (package,) = package_licences.packages([tmp_path])
    assert (package.name, package.version, package.licence) == ("some-package", "1.0", licence)


def test_a_folder_without_packages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds neither wheels nor installed packages"):
        package_licences.packages([tmp_path])


def test_a_package_whose_version_depends_on_the_python_has_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(licences, "LOCK", tmp_path / "requirements.txt")
    licences.LOCK.write_text("pydicom==3.0 ; python_version < '3.12'\npydicom==3.1 ; python_version >= '3.12'\n")
    assert licences.rows("") == {"pydicom": "| `pydicom` | 3.0, 3.1 | MIT |"}
