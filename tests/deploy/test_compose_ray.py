"""What compose.ray.yaml adds to compose.yaml: workers in containers as confined as the others, on their own network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lib.server.options import ServerOptions
from serve import make_parser
from support.compose_stack import DEPLOY, read_compose
from support.kustomize import build
from support.ray_serve import assert_is_the_apps

VARIABLES = {"SAM_HOST": "sam.hospital.example", "SAM_WORKERS": "3"}
ADDED = ("ray", "workers")


@pytest.fixture(scope="module")
def compose() -> dict:
    return read_compose(VARIABLES, "compose.ray.yaml")


def test_it_is_valid_by_the_schema_of_compose_files() -> None:
    file = DEPLOY / "compose.ray.yaml"
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rays_containers_are_as_confined_as_the_archives(compose) -> None:
    archive = compose["services"]["archive"]
    same = ("restart", "user", "read_only", "cap_drop", "security_opt", "pull_policy", "logging")
    for name in ADDED:
        service = compose["services"][name]
        assert {key: service[key] for key in same} == {key: archive[key] for key in same}
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
        assert not {"ports", "privileged", "cap_add", "network_mode", "ipc", "pid"} & set(service)
        assert service["healthcheck"]["test"][0] == "CMD"
        for mount in service.get("volumes", []):
            source, _, mode = mount.split(":")
            assert (DEPLOY / source).is_file() and mode == "ro"


def test_rays_network_is_internal_and_beside_its_own_containers_only_the_server_is_there(compose) -> None:
    assert compose["networks"]["workers"] == {"internal": True}
    services = compose["services"]
    assert {name for name, service in services.items() if "workers" in service["networks"]} == {"server", *ADDED}
    assert set(services["server"]["networks"]) == {"inside", "archive", "workers"}
    for name in ADDED:
        assert services[name]["networks"] == ["workers"]


def test_tokens_are_files_and_the_server_has_none_of_rays(compose) -> None:
    files = {name: secret["file"] for name, secret in compose["secrets"].items()}
    assert files["ray_token"] == "./secrets/ray_token" and files["workers_token"] == "./secrets/workers_token"
    services = compose["services"]
    assert set(services["server"]["secrets"]) == {"archive_password", "workers_token"}
    for name in ADDED:
        assert services[name]["secrets"] == ["ray_token", "workers_token"]
        given = services[name]["environment"]
        assert (given["RAY_AUTH_MODE"], given["RAY_AUTH_TOKEN_PATH"]) == ("token", "/run/secrets/ray_token")
        assert given["RAY_USAGE_STATS_ENABLED"] == "0"
        assert not {"SAM_WORKERS_TOKEN", "RAY_AUTH_TOKEN"} & set(given)


def program(folder: Path, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "image-entry"
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def run(compose: dict, service: str, folder: Path, entry: Path, **more) -> subprocess.CompletedProcess[str]:
    """Runs a service's entry point, less tini, with a program for the image's own."""
    _, _, *words = [*compose["services"][service]["entrypoint"], *compose["services"][service]["command"]]
    for name in compose["services"][service]["secrets"]:
        (folder / name).write_text(f"{name} of this test\n")
    places = {
        "/opt/sam-app/scripts/image-entry": str(entry),
        "/run/secrets": str(folder),
        "/etc/ray/serve.yaml": str(DEPLOY / "ray" / "serve.yaml"),
        "/tmp/serve.yaml": str(folder / "serve.yaml"),
    }
    for inside, outside in places.items():
        words = [word.replace(inside, outside) for word in words]
    environment = {"PATH": os.environ["PATH"], "SAM_WORKERS": "3"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False, **more)


def test_the_server_asks_the_workers_and_keeps_its_other_options(compose, tmp_path: Path) -> None:
    entry = program(tmp_path, 'echo "$SAM_WORKERS_TOKEN|$MONAI_LABEL_DICOMWEB_PASSWORD"', "printf '%s\\n' \"$@\"")
    tokens, *words = run(compose, "server", tmp_path, entry).stdout.splitlines()
    assert tokens == "workers_token of this test|archive_password of this test"
    plain = read_compose(VARIABLES)["services"]["server"]["command"]
    assert words == [*plain, "--conf", "workers", "http://ray:8000"]
    conf = dict(make_parser().parse_args(words).conf)
    assert "workers" in ServerOptions.__dataclass_fields__ and conf["workers"] == "http://ray:8000"


def test_a_worker_joins_the_head_with_the_servers_token(compose, tmp_path: Path) -> None:
    done = run(compose, "workers", tmp_path, program(tmp_path, 'echo "$SAM_WORKERS_TOKEN $*"'))
    assert done.stdout.startswith("workers_token of this test ray start --block --address=ray:6379 --num-cpus=1 ")
    assert compose["services"]["workers"]["deploy"]["replicas"] == VARIABLES["SAM_WORKERS"]


def test_the_head_is_told_what_to_run_until_it_takes_it_and_ends_with_ray(compose, tmp_path: Path) -> None:
    entry = program(
        tmp_path,
        f"cd {tmp_path}",
        'if [ "$1" = ray ]; then',
        '    echo "$SAM_WORKERS_TOKEN $*" >started; until [ -e told ]; do sleep 0.1; done; exit 7',
        "fi",
        "[ -e asked ] || { touch asked; exit 1; }",
        'echo "$*" >told',
    )
    done = run(compose, "ray", tmp_path, entry)
    assert done.returncode == 7, done.stderr
    assert (
        (tmp_path / "started").read_text().startswith("workers_token of this test ray start --head --block --port=6379")
    )
    words = (tmp_path / "told").read_text().split()
    assert words[:3] == ["serve", "run", "--non-blocking"]
    made = yaml.safe_load(Path(words[-1]).read_text())
    assert {one["args"]["workers"] for one in made["applications"]} == {3}


def test_a_head_whose_ray_does_not_start_ends(compose, tmp_path: Path) -> None:
    assert run(compose, "ray", tmp_path, program(tmp_path, "exit 1")).returncode == 1


def test_the_applications_are_the_apps_and_those_of_kubernetes() -> None:
    config = yaml.safe_load((DEPLOY / "ray" / "serve.yaml").read_text())
    assert config["http_options"]["port"] == 8000
    applications = {one["import_path"]: one for one in config["applications"]}
    assert_is_the_apps(applications)
    args, others = (one["args"] for one in applications.values())
    assert args == others == {"models": ["sam_tiny"], "cores": 1, "workers": 2}
    [service] = (one for one in build(DEPLOY / "kubernetes" / "overlays" / "ray") if one["kind"] == "RayService")
    there = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    assert [{**one, "args": None} for one in there] == [{**one, "args": None} for one in config["applications"]]


def test_its_variables_and_secrets_are_in_the_readme() -> None:
    readme = (DEPLOY / "README.md").read_text()
    for name in ("SAM_WORKERS", "SAM_RAY_IMAGE", "workers_token", "ray_token", "compose.yaml:compose.ray.yaml"):
        assert name in readme
