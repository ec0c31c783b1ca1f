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
from support.kustomize import Manifest, build, containers, pods_of
from support.ray_serve import assert_is_the_apps
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


def test_the_overlays_are_there() -> None:
    assert OVERLAYS == ["cpu", "gpu", "ray"]


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
        if one["kind"] == "RayService":  # its schema is KubeRay's; its pods are Kubernetes'
            for name, pod in pods_of(one).items():
                template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": pod}
                schemas.validate(template, version, strict=True)
        else:
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


EXAMPLES = re.findall(r"```yaml\n(.*?)```", (MANIFESTS / "README.md").read_text(), re.DOTALL)


def examples_overlay(folder: Path, kustomization: dict[str, Any]) -> Path:
    shutil.copytree(MANIFESTS, folder / "kubernetes")
    overlay = folder / "kubernetes" / "overlays" / "hospital"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return overlay


def test_the_readmes_overlay_changes_every_place_of_a_sites_name_and_images(tmp_path: Path) -> None:
    folder = examples_overlay(tmp_path, yaml.safe_load(textwrap.dedent(EXAMPLES[0])))
    objects = build(folder)
    assert "hospital.example" not in yaml.dump(objects)
    assert unsafe_pods(objects) == ways_out(objects) == dangling(objects) == []
    [peer] = ways_in(objects, "sam-app")
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "traefik"}
    assert made_by_kustomize(folder) == by_name(objects)


def test_what_the_readme_adds_for_workers_names_the_operator_and_the_api(tmp_path: Path) -> None:
    first, second = (yaml.safe_load(textwrap.dedent(example)) for example in EXAMPLES)
    assert set(second) == {"resources", "images", "patches"} and second["resources"] == ["../ray"]
    both = {**first, "resources": second["resources"]}
    for key in ("images", "patches"):
        both[key] = [*first[key], *second[key]]
    folder = examples_overlay(tmp_path, both)
    objects = build(folder)
    text = yaml.dump(objects)
    assert "hospital.example" not in text and "192.0.2.1/" not in text and "kuberay-system" not in text
    assert unsafe_pods(objects) == dangling(objects) == []
    assert made_by_kustomize(folder) == by_name(objects)


def test_nothing_is_unsafe_dangling_or_has_a_way_out(objects: list[Manifest], overlay: Path) -> None:
    """But Ray's head to the cluster's API, for its autoscaler, at an address that nobody has."""
    assert unsafe_pods(objects) == []
    of_autoscaler = ["sam-workers-head may reach {'ipBlock': {'cidr': '192.0.2.1/32'}}"]
    assert ways_out(objects) == (of_autoscaler if overlay.name == "ray" else [])
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
    gpus = {name: limit.get("nvidia.com/gpu") for name, limit in limits.items()}
    assert gpus == {"cpu": None, "gpu": "1", "ray": None}
    images = {name: server(build(MANIFESTS / "overlays" / name))["image"] for name in OVERLAYS}
    assert images["cpu"].endswith("-cpu") and images["gpu"].endswith("-cuda")


def ray_service(objects: list[Manifest]) -> Manifest:
    return by_name(objects)["RayService", "sam-workers"]["spec"]


@pytest.fixture
def with_ray() -> list[Manifest]:
    return build(MANIFESTS / "overlays" / "ray")


def variables(container: Manifest) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def test_the_server_asks_the_service_that_kuberay_makes_of_the_workers(with_ray: list[Manifest]) -> None:
    conf = dict(make_parser().parse_args(server(with_ray)["args"]).conf)
    name = by_name(with_ray)["RayService", "sam-workers"]["metadata"]["name"]
    [ray] = pods(with_ray)["sam-workers-encoders"]["spec"]["containers"]
    assert conf["workers"] == f"http://{name}-serve-svc:{ray['ports'][0]['containerPort']}"
    assert ray_service(with_ray)["excludeHeadPodFromServeSvc"]
    [head] = pods(with_ray)["sam-workers-head"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in head["ports"]}
    assert ports["serve"] == 8000, "without a port of this name KubeRay makes no such Service"


def test_server_and_workers_have_the_same_token_and_rays_own_is_another(with_ray: list[Manifest]) -> None:
    wanted = {"secretKeyRef": {"name": "sam-workers", "key": "token"}}
    [head] = pods(with_ray)["sam-workers-head"]["spec"]["containers"]
    [worker] = pods(with_ray)["sam-workers-encoders"]["spec"]["containers"]
    for container in (server(with_ray), head, worker):
        assert variables(container)["SAM_WORKERS_TOKEN"] == wanted
    assert ray_service(with_ray)["rayClusterConfig"]["authOptions"] == {
        "mode": "token",
        "secretName": "sam-workers-ray",
    }
    assert "sam-workers-ray" not in json.dumps(pods(with_ray)["sam-app"])
    assert variables(head)["RAY_USAGE_STATS_ENABLED"] == variables(worker)["RAY_USAGE_STATS_ENABLED"] == "0"


def test_rays_version_is_the_locks_and_its_image_this_version_of_the_app(with_ray: list[Manifest]) -> None:
    pinned = re.search(r"^ray==(\S+)$", (REPOSITORY / "requirements-ray.txt").read_text(), re.MULTILINE)[1]
    assert ray_service(with_ray)["rayClusterConfig"]["rayVersion"] == pinned
    for name in ("head", "encoders"):
        images = {container["image"] for container in containers(pods(with_ray)[f"sam-workers-{name}"])}
        assert images == {f"registry.hospital.example/sam-app-ray:{VERSION}-cpu"}


def test_the_applications_are_those_of_the_app_and_have_the_cores_that_the_pods_give(with_ray: list[Manifest]) -> None:
    config = yaml.safe_load(ray_service(with_ray)["serveConfigV2"])
    assert config["http_options"]["port"] == 8000
    applications = {one["import_path"]: one for one in config["applications"]}
    assert_is_the_apps(applications)
    args, others = (one["args"] for one in applications.values())
    assert args == others
    assert args["models"] == by_name(with_ray)["ConfigMap", "sam-app"]["data"]["MODELS"].split(",")
    [group] = ray_service(with_ray)["rayClusterConfig"]["workerGroupSpecs"]
    cores = int(group["rayStartParams"]["num-cpus"])
    [ray] = group["template"]["spec"]["containers"]
    assert int(ray["resources"]["limits"]["cpu"]) == cores
    assert args["max_workers"] * args["cores"] == group["maxReplicas"] * cores
    assert args["min_workers"] * args["cores"] <= group["minReplicas"] * cores
    assert ray_service(with_ray)["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_rays_pods_are_reached_by_one_another_and_the_server_and_the_head_by_the_operator(
    with_ray: list[Manifest],
) -> None:
    own = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "sam-workers"}}}
    the_server = {"podSelector": {"matchLabels": pods(with_ray)["sam-app"]["metadata"]["labels"]}}
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kuberay-system"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    }
    assert ways_in(with_ray, "sam-workers-encoders") == [own, the_server]
    assert ways_in(with_ray, "sam-workers-head") == [own, the_server, operator]
    rules = {name: by_name(with_ray)["NetworkPolicy", name]["spec"] for name in ("sam-workers", "sam-workers-operator")}
    assert rules["sam-workers"]["ingress"][1]["ports"] == [{"port": 8000}]
    assert rules["sam-workers-operator"]["ingress"][0]["ports"] == [{"port": 8265}]
    assert ways_in(with_ray, "archive") == [the_server], "nor do Ray's pods reach the archive"


def test_of_rays_pods_the_autoscaler_alone_has_a_token_of_the_cluster(with_ray: list[Manifest]) -> None:
    autoscaler = ray_service(with_ray)["rayClusterConfig"]["autoscalerOptions"]
    volumes = {volume["name"]: volume for volume in pods(with_ray)["sam-workers-head"]["spec"]["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in autoscaler["volumeMounts"]}
    token = mounts["/var/run/secrets/kubernetes.io/serviceaccount"]
    paths = [item.get("path") for source in token["projected"]["sources"] for item in _items(source)]
    assert paths == ["token", "ca.crt", "namespace"]  # where Ray's autoscaler looks
    head = pods(with_ray)["sam-workers-head"]["spec"]["containers"][0]
    head["volumeMounts"].append({"name": "cluster", "mountPath": "/x"})
    autoscaler.pop("securityContext")
    found = unsafe_pods(with_ray)
    assert any("cluster has a token of a service account" in fault for fault in found)
    assert "sam-workers-head: autoscaler has capabilities" in found


def _items(source: Manifest) -> list[Manifest]:
    [kind] = source.values()
    return kind.get("items", [kind])


def test_rays_pods_are_asked_without_programs_that_the_image_does_not_have(with_ray: list[Manifest]) -> None:
    """Where a probe is left out, KubeRay's takes its place, which calls wget."""
    for name in ("head", "encoders"):
        [ray] = pods(with_ray)[f"sam-workers-{name}"]["spec"]["containers"]
        assert {"httpGet"} <= set(ray["readinessProbe"]) & set(ray["livenessProbe"])
        [first] = pods(with_ray)[f"sam-workers-{name}"]["spec"]["initContainers"]
        assert first["command"][0] == "/opt/sam-app/scripts/image-entry"
        shared = {mount["mountPath"] for mount in first["volumeMounts"]}
        assert shared <= {mount["mountPath"] for mount in ray["volumeMounts"]}


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
