"""What deploy/compose.yaml promises of each container; that it is valid; and that what it names is there."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from support.compose_stack import DEPLOY, read_compose

VARIABLES = {"SAM_HOST": "sam.hospital.example"}
SERVICES = ("front", "server", "server-gpu", "archive", "keycloak")


@pytest.fixture(scope="module")
def compose() -> dict:
    return read_compose(VARIABLES)


def test_it_is_valid_by_the_schema_of_compose_files():
    """The schema comes with the checker; no network."""
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_says_what_env_must_have():
    with pytest.raises(KeyError, match="the name under which browsers find this machine"):
        read_compose({})
    example = (DEPLOY / ".env.example").read_text()
    named = set(re.findall(r"\$\{(SAM_\w+)", (DEPLOY / "compose.yaml").read_text()))
    explained = set(re.findall(r"\b(SAM_[A-Z_]+)\b", example))
    assert explained <= named
    readme = (DEPLOY / "README.md").read_text()
    assert {name for name in named if name not in example + readme} == set()


def test_services_are_those_that_are_known(compose):
    assert set(compose["services"]) == set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_can_do_more_than_it_needs(compose, name):
    service = compose["services"][name]
    assert service["user"] == "10001:10001" and service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert service["pull_policy"] == "never"  # of these names there is nothing to pull, but what strangers put there
    risky = {"privileged", "cap_add", "network_mode", "pid", "ipc", "userns_mode", "devices", "cgroup", "volumes_from"}
    assert risky.isdisjoint(service)
    limits = service["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory", "pids"}
    assert service["logging"] == {"driver": "local", "options": {"max-size": "10m", "max-file": "5"}}
    assert service["restart"] == "unless-stopped" and service["healthcheck"]["test"][0].startswith("CMD")


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_a_named_volume_or_a_file_beside_it_that_cannot_be_written(compose, name):
    for mount in compose["services"][name].get("volumes", []):
        source, _, *mode = mount.split(":")
        if source.startswith("./"):
            assert mode == ["ro"] and (DEPLOY / source).exists()
        else:
            assert source in compose["volumes"] and not mode


def test_only_443_is_published_and_only_the_front_is_on_a_network_that_leads_out(compose):
    services = compose["services"]
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "front": ["443:8443"]
    }
    networks = compose["networks"]
    outside = [name for name, network in networks.items() if not network.get("internal")]
    assert outside == ["outside"]
    assert networks["outside"]["driver_opts"] == {"com.docker.network.bridge.enable_ip_masquerade": "false"}
    assert {name for name, service in services.items() if "outside" in service["networks"]} == {"front"}
    assert {name for name, service in services.items() if "archive" in service["networks"]} == {
        "server", "server-gpu", "archive",
    }  # fmt: skip


def test_each_starts_when_what_it_needs_is_healthy(compose):
    services = compose["services"]
    needs = {name: service["depends_on"] for name, service in services.items() if "depends_on" in service}
    assert set(needs) == {"front", "server", "server-gpu"}
    for wanted in needs.values():
        assert {one["condition"] for one in wanted.values()} == {"service_healthy"}
    # With one profile the other's server is not there.
    assert {name: one["required"] for name, one in needs["front"].items()} == {"server": False, "server-gpu": False}
    assert services["server"]["profiles"] == ["cpu"] and services["server-gpu"]["profiles"] == ["gpu"]
    assert services["server-gpu"]["networks"]["inside"] == {"aliases": ["server"]}


def test_secrets_are_files_and_never_variables(compose):
    assert {name: secret["file"] for name, secret in compose["secrets"].items()} == {
        "archive_password": "./secrets/archive_password",
        "keycloak_password": "./secrets/keycloak_password",
    }
    for name, service in compose["services"].items():
        assert not [key for key in service.get("environment", {}) if "PASSWORD" in key], name
        assert set(service.get("secrets", [])) <= set(compose["secrets"])


def test_every_volume_secret_and_network_is_used(compose):
    services = compose["services"].values()
    used = {mount.split(":")[0] for service in services for mount in service.get("volumes", [])}
    assert {name for name in compose["volumes"] if name not in used} == set()
    assert {name for service in services for name in service.get("secrets", [])} == set(compose["secrets"])
    assert {name for service in services for name in service["networks"]} == set(compose["networks"])


def test_images_that_are_built_here_have_their_stage(compose):
    stages = re.findall(r"^FROM \S+ AS (\w+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    built = {service["build"]["target"] for service in compose["services"].values() if "build" in service}
    assert built == set(stages) == {"archive", "front", "keycloak"}


README = (DEPLOY / "README.md").read_text()
BLOCKS = re.findall(r"^```(sh|yaml)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("lines", [text for kind, text in BLOCKS if kind == "sh"])
def test_the_lines_of_the_readme_are_whole_and_name_what_is_there(compose, lines):
    subprocess.run(["bash", "-n", "-c", lines], check=True)
    options = r"(?: -{1,2}[\w-]+)*"
    services = re.findall(rf"docker compose (?:exec|run|restart|build){options}((?: [a-z]+)+)", lines)
    for service in {word for words in services for word in words.split()[:1]}:
        assert service in compose["services"]
    for volume in re.findall(r"for volume in ([a-z ]+);", lines):
        assert set(volume.split()) <= set(compose["volumes"])
    for file in re.findall(r"(?<![\w/])scripts/\w+", lines):
        assert (DEPLOY.parent / file).is_file()


def test_what_the_readme_overrides_can_be_overridden(compose):
    overrides = [yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml"]
    assert len(overrides) == 4
    for override in overrides:
        further = {}
        for name, service in override.get("services", {}).items():
            base = service.pop("extends", {"service": name})["service"]
            assert set(service) <= set(compose["services"][base])
            if base != name:
                further |= dict(mount.split(":") for mount in service["volumes"])
        assert set(override.get("volumes", {})) <= {*compose["volumes"], *further}
        mounts = dict(mount.split(":")[::-1] for mount in compose["services"]["server"]["volumes"])
        assert {mounts[place] for place in further.values()} == {name.removesuffix("-2") for name in further}


def test_the_readme_says_of_each_volume_whether_to_back_it_up(compose):
    table = README.split("## Backup and restore")[1].split("All but")[0]
    named = [
        name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")
    ]
    assert sorted(named) == sorted(compose["volumes"])
