"""What ``kubectl apply --kustomize`` would send to a cluster.

Kustomize is no package that the tests could bring, so the few of its features that are used are resolved here:
``resources``, ``images`` (name and tag) and ``patches`` (JSON patches that add or replace). Where a ``kubectl`` with
kustomize is installed, the tests compare with what it makes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
_KEYS = {"apiVersion", "kind", "resources", "images", "patches"}


def build(folder: Path) -> list[Manifest]:
    """The objects of a folder with a ``kustomization.yaml``."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(kustomization) <= _KEYS, f"{folder} uses features of kustomize that are not resolved here"
    objects: list[Manifest] = []
    for resource in kustomization["resources"]:
        path = folder / resource
        objects += build(path) if path.is_dir() else yaml.safe_load_all(path.read_text())
    # Aliases of YAML make several places one object, which a patch of one of them would change, too.
    objects = [yaml.safe_load(yaml.dump(one, Dumper=_WithoutAliases)) for one in objects]
    for image in kustomization.get("images", ()):
        _rename(objects, image)
    for patch in kustomization.get("patches", ()):
        [target] = (one for one in objects if _matches(one, patch["target"]))
        for step in yaml.safe_load(patch["patch"]):
            _apply(target, step)
    return objects


class _WithoutAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def pods_of(manifest: Manifest) -> dict[str, Manifest]:
    """The templates of a workload's pods, by names; KubeRay makes several kinds of one RayService."""
    name = manifest["metadata"]["name"]
    if manifest["kind"] == "RayService":
        cluster = manifest["spec"]["rayClusterConfig"]
        groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
        return {
            f"{name}-{part}": group["template"] for part, group in {"head": cluster["headGroupSpec"], **groups}.items()
        }
    template = manifest.get("spec", {}).get("template")
    return {name: template} if template else {}


def containers(pod: Manifest) -> list[Manifest]:
    """Its containers, those that run first included."""
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def _rename(objects: list[Manifest], image: dict[str, str]) -> None:
    assert set(image) == {"name", "newName", "newTag"}
    found = [
        container
        for one in objects
        for pod in pods_of(one).values()
        for container in containers(pod)
        if re.sub(r":[^/:]*$", "", container["image"]) == image["name"]
    ]
    assert found, f"no container has the image {image['name']}"
    for container in found:
        container["image"] = f"{image['newName']}:{image['newTag']}"


def _matches(manifest: Manifest, target: dict[str, str]) -> bool:
    assert set(target) <= {"kind", "name"}
    return {"kind": manifest["kind"], "name": manifest["metadata"]["name"]}.items() >= target.items()


def _apply(manifest: Manifest, step: dict[str, Any]) -> None:
    assert step["op"] in ("add", "replace"), "only patches that add or replace are resolved here"
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
    place: Any = manifest
    for part in way:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if step["op"] == "replace":
        key = int(last) if isinstance(place, list) else last
        assert place[key] is not None
        place[key] = step["value"]
    elif isinstance(place, list):
        place.insert(len(place) if last == "-" else int(last), step["value"])
    else:
        place[last] = step["value"]
