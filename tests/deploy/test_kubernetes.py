"""The Kubernetes manifests: valid, restricted, without a way out, and in step with the app."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from monailabel.config import Settings

import orthanc as archive
from lib.server.options import ServerOptions
from lib.version import VERSION
from serve import make_parser
from support.kubernetes_rules import dangling, pods, unsafe_pods, ways_in, ways_out
from support.kustomize import Manifest, build, containers
from support.server_process import REPOSITORY, free_port

MANIFESTS = REPOSITORY / "deploy" / "kubernetes"
OVERLAYS = sorted(path.parent.name for path in (MANIFESTS / "overlays").glob("*/kustomization.yaml"))
VERSIONS = ("1.27", "1.37")
Change = Callable[[dict[tuple[str, str], Manifest]], object]


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> Path:
    return MANIFESTS / "overlays" / request.param


@pytest.fixture
def objects(overlay: Path) -> list[Manifest]:
    return build(overlay)


def by_name(objects: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


def server(objects: list[Manifest]) -> Manifest:
    [container] = pods(objects)["sam-app"]["spec"]["containers"]
    return container


def test_both_overlays_are_there() -> None:
    assert OVERLAYS == ["cpu", "gpu"]


def test_the_images_are_those_of_this_version(objects: list[Manifest]) -> None:
    tag = server(objects)["image"].rpartition(":")[2]
    assert tag in (f"{VERSION}-cpu", f"{VERSION}-cuda")


def test_the_archive_is_configured_as_in_the_compose_file(objects: list[Manifest]) -> None:
    stated = by_name(objects)["ConfigMap", "archive"]["data"]["orthanc.json"]
    assert stated == (REPOSITORY / "deploy" / "orthanc" / "orthanc.json").read_text()


@pytest.fixture(scope="module")
def schemas() -> Any:
    """The package that has Kubernetes' schemas and checks objects by them."""
    import kubernetes_validate  # here, as it takes seconds

    return kubernetes_validate


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(objects: list[Manifest], version: str, schemas: Any) -> None:
    for one in objects:
        schemas.validate(one, version, strict=True)


def test_a_misspelt_field_would_be_found(objects: list[Manifest], schemas: Any) -> None:
    deployment = by_name(objects)["Deployment", "sam-app"]
    deployment["spec"]["template"]["spec"]["containers"][0]["securitycontext"] = {}
    with pytest.raises(schemas.ValidationError):
        schemas.validate(deployment, VERSIONS[0], strict=True)


def made_by_kustomize(overlay: Path) -> dict[tuple[str, str], Manifest]:
    kubectl = shutil.which("kubectl")
    if not kubectl or subprocess.run([kubectl, "kustomize", "--help"], capture_output=True, check=False).returncode:
        pytest.skip("no kubectl with kustomize is installed: only the tests' own resolution was checked")
    made = subprocess.run([kubectl, "kustomize", str(overlay)], capture_output=True, text=True, check=True)
    return by_name(list(yaml.safe_load_all(made.stdout)))


def test_kustomize_itself_makes_the_same_objects(overlay: Path, objects: list[Manifest]) -> None:
    assert made_by_kustomize(overlay) == by_name(objects)


def test_the_readmes_overlay_changes_every_place_of_a_sites_name_and_images(tmp_path: Path) -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", (MANIFESTS / "README.md").read_text(), re.DOTALL)
    shutil.copytree(MANIFESTS, tmp_path / "kubernetes")
    folder = tmp_path / "kubernetes" / "overlays" / "hospital"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(textwrap.dedent(example))
    objects = build(folder)
    assert "hospital.example" not in yaml.dump(objects)
    assert unsafe_pods(objects) == ways_out(objects) == dangling(objects) == []
    [peer] = ways_in(objects, "sam-app")
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "traefik"}
    assert made_by_kustomize(folder) == by_name(objects)


def test_nothing_is_unsafe_dangling_or_has_a_way_out(objects: list[Manifest]) -> None:
    assert unsafe_pods(objects) == []
    assert ways_out(objects) == []
    assert dangling(objects) == []


def _pod(name: str) -> Callable[[dict[tuple[str, str], Manifest]], Any]:
    kind = "Deployment" if name == "sam-app" else "StatefulSet"
    return lambda found: found[kind, name]["spec"]["template"]["spec"]


def _policy(name: str) -> Callable[[dict[tuple[str, str], Manifest]], Any]:
    return lambda found: found["NetworkPolicy", name]["spec"]


@pytest.mark.parametrize(
    ("check", "change", "said"),
    [
        (unsafe_pods, lambda o: _pod("archive")(o)["securityContext"].update(runAsUser=0), "archive: may be root"),
        (unsafe_pods, lambda o: _pod("sam-app")(o).pop("automountServiceAccountToken"), "sam-app: has a token"),
        (unsafe_pods, lambda o: _pod("sam-app")(o)["securityContext"].pop("seccompProfile"), "no seccomp profile"),
        (unsafe_pods, lambda o: _pod("sam-app")(o).update(hostNetwork=True), "a namespace of the host"),
        (
            unsafe_pods,
            lambda o: _pod("sam-app")(o)["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
            "volume h",
        ),
        (
            unsafe_pods,
            lambda o: _pod("sam-app")(o)["initContainers"][0]["securityContext"].update(readOnlyRootFilesystem=False),
            "keys can write its root",
        ),
        (
            unsafe_pods,
            lambda o: _pod("archive")(o)["containers"][0]["securityContext"].pop("capabilities"),
            "archive has capabilities",
        ),
        (unsafe_pods, lambda o: _pod("archive")(o)["containers"][0].pop("resources"), "has no limit"),
        (
            unsafe_pods,
            lambda o: _pod("archive")(o)["containers"][0].update(image="x/orthanc:latest"),
            "an image without",
        ),
        (unsafe_pods, lambda o: _pod("archive")(o)["containers"][0].update(image="x/orthanc"), "an image without"),
        (ways_out, lambda o: _policy("sam-app")(o)["egress"].append({}), "sam-app may reach anything"),
        (
            ways_out,
            lambda o: _policy("sam-app")(o)["egress"][0]["to"].append({"ipBlock": {"cidr": "0.0.0.0/0"}}),
            "sam-app may reach {'ipBlock'",
        ),
        (ways_out, lambda o: _policy("sam-app")(o)["egress"][1].update(ports=[{"port": 443}]), "sam-app may reach"),
        (
            ways_out,
            lambda o: [_policy(name)(o).update(policyTypes=["Ingress"]) for name in ("nothing", "archive")],
            "archive may reach anything",
        ),
        (dangling, lambda o: o["Service", "sam-app"]["metadata"].update(name="server"), "no Service sam-app"),
        (
            dangling,
            lambda o: o["PersistentVolumeClaim", "sam-app-data"]["metadata"].update(name="data"),
            "sam-app-data",
        ),
        (dangling, lambda o: o["Service", "archive"]["spec"].update(selector={"app": "x"}), "selects 0 workloads"),
    ],
)
def test_what_would_be_found(check: Callable[[list[Manifest]], list[str]], change: Change, said: str) -> None:
    objects = build(MANIFESTS / "overlays" / "cpu")
    change(by_name(objects))
    found = check(objects)
    assert found and all(said in fault for fault in found)


def test_the_archive_is_reached_by_the_server_alone_and_the_server_by_the_ingress_alone(
    objects: list[Manifest],
) -> None:
    assert ways_in(objects, "archive") == [
        {"podSelector": {"matchLabels": pods(objects)["sam-app"]["metadata"]["labels"]}}
    ]
    assert ways_in(objects, "sam-app") == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}
    ]
    for one in objects:
        assert one["kind"] != "Service" or "type" not in one["spec"], (
            "a service can be reached from outside the cluster"
        )


def test_the_cluster_refuses_pods_that_are_not_restricted(objects: list[Manifest]) -> None:
    namespace = by_name(objects)["Namespace", "sam-app"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for one in objects:
        assert one is namespace or one["metadata"]["namespace"] == "sam-app"


def test_what_is_written_stays_the_servers_alone(objects: list[Manifest]) -> None:
    """Where volumes are given to the group at each start, keys and results would be the group's to read, too."""
    for pod in pods(objects).values():
        context = pod["spec"]["securityContext"]
        assert context["fsGroup"] == context["runAsGroup"] and context["fsGroupChangePolicy"] == "OnRootMismatch"


def test_a_second_server_never_runs_beside_the_first(objects: list[Manifest]) -> None:
    spec = by_name(objects)["Deployment", "sam-app"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_the_server_is_asked_for_its_health_and_given_minutes_to_start(objects: list[Manifest]) -> None:
    probes = {name: server(objects)[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    assert {probe["httpGet"]["path"] for probe in probes.values()} == {"/health_check/"}
    assert probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] >= 600
    assert probes["liveness"]["failureThreshold"] > probes["readiness"]["failureThreshold"]


def test_the_servers_arguments_are_the_apps(objects: list[Manifest]) -> None:
    settings = by_name(objects)["ConfigMap", "sam-app"]["data"]
    words = [settings.get(word[2:-1], word) if word.startswith("$(") else word for word in server(objects)["args"]]
    arguments = make_parser().parse_args(words)
    conf = dict(arguments.conf)
    conf.pop("api_keys")  # there is no such file here
    options = ServerOptions.from_conf(conf, Path("/app"))
    [rule] = by_name(objects)["Ingress", "sam-app"]["spec"]["rules"]
    assert options.hosts == (rule["host"],), "the ingress's name is not the one that the server knows"
    assert arguments.studies.startswith(f"http://{by_name(objects)['Service', 'archive']['metadata']['name']}:8042/")
    names = {variable["name"] for variable in server(objects)["env"]}
    assert {name for name in names if name.startswith("MONAI_LABEL_")} <= set(Settings.model_fields)


def test_what_the_ingress_lets_through_is_what_the_server_takes(objects: list[Manifest]) -> None:
    notes = by_name(objects)["Ingress", "sam-app"]["metadata"]["annotations"]
    options = ServerOptions.from_conf({}, Path("/app"))
    assert notes["nginx.ingress.kubernetes.io/proxy-body-size"] == f"{options.max_upload_mb}m"
    assert int(notes["nginx.ingress.kubernetes.io/proxy-read-timeout"]) > options.max_seconds
    assert by_name(objects)["Ingress", "sam-app"]["spec"]["tls"]


def test_only_the_gpu_overlay_asks_for_a_gpu() -> None:
    limits = {name: server(build(MANIFESTS / "overlays" / name))["resources"]["limits"] for name in OVERLAYS}
    assert {name: limit.get("nvidia.com/gpu") for name, limit in limits.items()} == {"cpu": None, "gpu": "1"}
    images = {name: server(build(MANIFESTS / "overlays" / name))["image"] for name in OVERLAYS}
    assert images["cpu"].endswith("-cpu") and images["gpu"].endswith("-cuda")


def test_the_keys_become_a_file_that_the_server_takes(objects: list[Manifest], tmp_path: Path) -> None:
    [first] = pods(objects)["sam-app"]["spec"]["initContainers"]
    places = {mount["mountPath"]: tmp_path / mount["name"] for mount in first["volumeMounts"]}
    for place in places.values():
        place.mkdir()
    (places["/secret"] / "api_keys.json").write_text(json.dumps({"keys": []}))
    (places["/secret"] / "api_keys.json").chmod(0o440)  # as a mounted secret is
    command = [_replaced(word, places) for word in first["command"]]
    subprocess.run(command, check=True)
    conf = dict(make_parser().parse_args(server(objects)["args"]).conf)
    assert ServerOptions.from_conf({"api_keys": _replaced(conf["api_keys"], places)}, tmp_path).api_keys
    assert (places["/keys"] / "api_keys.json").stat().st_mode & 0o777 == 0o600


def _replaced(word: str, places: dict[str, Path]) -> str:
    for mounted, place in places.items():
        word = word.replace(mounted + "/", f"{place}/")
    return word


def test_orthanc_runs_with_its_configuration(tmp_path: Path) -> None:
    try:
        program = archive.program()
    except archive.OrthancError as error:
        pytest.skip(str(error))
    objects = build(MANIFESTS / "overlays" / "cpu")
    configuration = tmp_path / "orthanc.json"
    configuration.write_text(by_name(objects)["ConfigMap", "archive"]["data"]["orthanc.json"])
    port = free_port()
    [container] = containers(pods(objects)["archive"])
    assert {variable["name"] for variable in container["env"]} == {"ARCHIVE_PASSWORD"}
    [name] = (one["value"] for one in server(objects)["env"] if one["name"] == "MONAI_LABEL_DICOMWEB_USERNAME")
    variables = {
        "ARCHIVE_PASSWORD": "secret",
        "ARCHIVE_PORT": str(port),
        "ARCHIVE_REMOTE_ACCESS": "false",
        "ARCHIVE_FOLDER": str(tmp_path / "storage"),
    }
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, str(configuration)], env={**os.environ, **variables}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        url = f"http://127.0.0.1:{port}/dicom-web/studies"
        transport = httpx.HTTPTransport(retries=8)  # waits 0, 0.5, 1, 2, ... s between them
        with httpx.Client(transport=transport, timeout=30) as client:
            assert client.get(url).status_code == 401, log.read_text()
            answer = client.get(url, auth=(name, "secret"))
            assert (answer.status_code, answer.json()) == (200, []), log.read_text()
    finally:
        process.terminate()
        process.wait(20)
