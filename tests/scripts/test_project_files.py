"""What outsiders see first: workflows, forms for issues, CITATION.cff, the version, the changelog."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

import bundle
from lib.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
PYPROJECT = (ROOT / "pyproject.toml").read_text()

SCHEMAS = [
    *((path, "vendor.github-workflows") for path in WORKFLOWS),
    *((path, "custom.github-workflows-require-timeout") for path in WORKFLOWS),
    *((path, "vendor.github-issue-forms") for path in GITHUB.glob("ISSUE_TEMPLATE/*.yml") if path.stem != "config"),
    (GITHUB / "ISSUE_TEMPLATE" / "config.yml", "vendor.github-issue-config"),
    (GITHUB / "dependabot.yml", "vendor.dependabot"),
    (ROOT / "CITATION.cff", "vendor.citation-file-format"),
]


def validate(path: Path, schema: str) -> Result:
    """In this process, as the command takes seconds to start."""
    from check_jsonschema import main as check_jsonschema  # here, as it takes seconds

    return CliRunner().invoke(check_jsonschema, ["--builtin-schema", schema, "--force-filetype", "yaml", str(path)])


@pytest.mark.parametrize(
    ("path", "schema"), SCHEMAS, ids=[f"{path.name}-{schema.split('.')[1]}" for path, schema in SCHEMAS]
)
def test_files_for_github_and_for_citing_are_valid(path: Path, schema: str) -> None:
    done = validate(path, schema)
    assert done.exit_code == 0, done.output


def test_what_is_not_valid_is_found(tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text(WORKFLOWS[0].read_text().replace("runs-on", "run-on"))
    assert validate(tmp_path / "x.yml", "vendor.github-workflows").exit_code == 1


def steps() -> Iterator[dict]:
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            yield from job["steps"]


def test_workflows_call_the_scripts_and_actions_of_a_fixed_version() -> None:
    for step in steps():
        if "run" in step:
            program = ROOT / step["run"].split()[0]
            assert program.parent.name in ("scripts", ".ci") and os.access(program, os.X_OK), step
        else:
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", step["uses"]), step
    assert sum("run" in step for step in steps()) == 4


def test_every_workflow_may_only_read_unless_a_job_says_otherwise() -> None:
    assert {path.stem for path in WORKFLOWS} == {"nightly", "release", "test"}
    for path in WORKFLOWS:
        assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}


def test_one_list_of_pythons() -> None:
    matrix = yaml.safe_load((GITHUB / "workflows" / "test.yml").read_text())["jobs"]["test"]["strategy"]["matrix"]
    in_setup = re.search(r"^versions=\((.*)\)$", (ROOT / "scripts" / "setup").read_text(), re.MULTILINE)
    assert matrix["python"] == in_setup[1].split() == list(bundle.PYTHONS)
    lowest, highest = bundle.PYTHONS[0], int(bundle.PYTHONS[-1].split(".")[1])
    assert f'requires-python = ">={lowest},<3.{highest + 1}"' in PYPROJECT


def test_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (latest, date) = re.findall(r"^## (\d\S*) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert citation["version"] == latest == VERSION
    assert str(citation["date-released"]) == date
    assert 'dynamic = ["version"]' in PYPROJECT and not re.search(r"^version = \"", PYPROJECT, re.MULTILINE)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A copy of what a release starts from; its programs only print how they are called."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    shutil.copy(ROOT / "CHANGELOG.md", tmp_path)
    version = tmp_path / "apps" / "sam_app" / "lib" / "version.py"
    version.parent.mkdir(parents=True)
    shutil.copy(ROOT / "apps" / "sam_app" / "lib" / "version.py", version)
    for program in ("scripts/image", "scripts/bundle", ".ci/advisories", "bin/gh"):
        (tmp_path / program).parent.mkdir(exist_ok=True)
        lines = f'echo {program} "$@"\n[ "${{1:-}}" != save ] || echo image >"$2"\n[ "${{1:-}}" != release ] || cat\n'
        (tmp_path / program).write_text(f"#!/bin/sh\n{lines}")
        (tmp_path / program).chmod(0o755)
    return tmp_path


def call(release: Path, step: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(release / ".ci" / "release"), step],
        env={"PATH": f"{release / 'bin'}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_release_is_checked_built_and_published(release: Path) -> None:
    built = call(release, "build", GITHUB_REF_NAME=f"v{VERSION}")
    assert built.returncode == 0, built.stderr
    assert built.stdout.splitlines() == [
        ".ci/advisories",
        "scripts/image build",
        "scripts/image check",
        f"scripts/image save bundles/sam-app-{VERSION}-image-cpu.tar.zst",
        "scripts/bundle make --torch cpu --python 3.11 --python 3.12 --python 3.13",
    ]
    published = call(release, "publish")
    assert published.stdout.startswith(
        f"bin/gh release create v{VERSION} --verify-tag --title {VERSION} --notes-file - "
        f"bundles/sam-app-{VERSION}-image-cpu.tar.zst bundles/SHA256SUMS\n"
    )
    assert published.stdout.endswith(call(release, "notes").stdout) and "### Added" in published.stdout


def test_a_tag_of_another_version_or_without_a_section_is_not_released(release: Path) -> None:
    done = call(release, "build", GITHUB_REF_NAME="v9.9.9")
    assert done.returncode == 1 and done.stderr == f"the tag is v9.9.9, the version {VERSION}\n" and done.stdout == ""
    (release / "CHANGELOG.md").write_text("## Unreleased\n\n- much\n")
    done = call(release, "build", GITHUB_REF_NAME=f"v{VERSION}")
    assert done.returncode == 1 and done.stderr == f"CHANGELOG.md has no section of {VERSION}\n" and done.stdout == ""


def test_the_notes_are_those_of_the_version_alone(release: Path) -> None:
    (release / "CHANGELOG.md").write_text(
        f"## Unreleased\n\n- later\n\n## {VERSION} - 2026-01-01\n\n- now\n\n## 0.1.0 - x\n- old\n"
    )
    assert call(release, "notes").stdout.strip() == "- now"
