"""What each object of the stack must keep, beyond being valid: each function returns what is wrong, a line each."""

from __future__ import annotations

import re
from collections.abc import Iterator

from support.kustomize import Manifest, containers, pods_of

_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
_TAGGED = re.compile(r"(?:[a-z0-9.-]+(?::\d+)?/)?[a-z0-9._/-]+:(?!latest$)[A-Za-z0-9._-]*\d[A-Za-z0-9._-]*")
_DNS = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}


def pods(objects: list[Manifest]) -> dict[str, Manifest]:
    """The pods' templates, by their workload's name."""
    return {name: pod for one in objects for name, pod in pods_of(one).items()}


def unsafe_pods(objects: list[Manifest]) -> list[str]:
    """What goes beyond PodSecurity's ``restricted``, has a token of the cluster, or can write its root."""
    found = [f"{name}: {fault}" for name, pod in pods(objects).items() for fault in _pod_faults(pod)]
    for one in objects:
        if one["kind"] == "RayService":
            # KubeRay adds it to the head's pod, with the image of Ray's container there.
            [ray] = one["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
            autoscaler = {
                **one["spec"]["rayClusterConfig"]["autoscalerOptions"],
                "name": "autoscaler",
                "image": ray["image"],
            }
            found += [f"{one['metadata']['name']}-head: autoscaler {fault}" for fault in _container_faults(autoscaler)]
    return found


def _pod_faults(pod: Manifest) -> Iterator[str]:
    spec = pod["spec"]
    context = spec.get("securityContext", {})
    if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield "shares a namespace of the host"
    if spec.get("automountServiceAccountToken") is not False:
        yield "has a token of a service account"
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser") or not context.get("runAsGroup"):
        yield "may be root"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "has no seccomp profile"
    mounted = {mount["name"] for container in containers(pod) for mount in container.get("volumeMounts", ())}
    for volume in spec.get("volumes", ()):
        if "projected" in volume and volume["name"] in mounted:
            yield f"volume {volume['name']} has a token of a service account for more than the autoscaler"
        if set(volume) - {"name", "projected"} - _VOLUMES:
            yield f"volume {volume['name']} is of a kind that is not restricted"
    for container in containers(pod):
        yield from (f"{container['name']} {fault}" for fault in _container_faults(container))


def _container_faults(container: Manifest) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield "may gain privileges"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "has capabilities"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "can write its root file system"
    if {"runAsUser", "runAsNonRoot", "runAsGroup", "seccompProfile", "procMount"} & set(context):
        yield "overrides its pod's security context"
    if any("hostPort" in port for port in container.get("ports", ())):
        yield "has a port of the host"
    if not {"cpu", "memory"} <= set(container.get("resources", {}).get("limits", {})):
        yield "has no limit of processors or memory"
    if not _TAGGED.fullmatch(container["image"]):
        yield f"has an image without a version: {container['image']}"


def ways_out(objects: list[Manifest]) -> list[str]:
    """What a pod may reach beside the stack's own pods and the cluster's names."""
    found = []
    for name, pod in pods(objects).items():
        policies = _policies_of(pod, objects, "Egress")
        if not policies:
            found.append(f"{name} may reach anything: no policy selects it")
        for rule in (rule for policy in policies for rule in policy["spec"].get("egress", ())):
            peers = rule.get("to") or [{}]
            found += [f"{name} may reach {peer or 'anything'}" for peer in peers if not _is_inside(peer, rule, objects)]
    return found


def ways_in(objects: list[Manifest], name: str) -> list[Manifest]:
    """Who may reach a pod: its peers."""
    policies = _policies_of(pods(objects)[name], objects, "Ingress")
    assert policies, f"no policy selects {name}"
    return [
        peer for policy in policies for rule in policy["spec"].get("ingress", ()) for peer in (rule.get("from") or [{}])
    ]


def _is_inside(peer: Manifest, rule: Manifest, objects: list[Manifest]) -> bool:
    if peer == _DNS:
        return [port["port"] for port in rule["ports"]] == [53, 53]
    labels = peer.get("podSelector", {}).get("matchLabels")
    return (
        set(peer) == {"podSelector"} and bool(labels) and any(_selects(labels, pod) for pod in pods(objects).values())
    )


def _policies_of(pod: Manifest, objects: list[Manifest], direction: str) -> list[Manifest]:
    return [
        one
        for one in objects
        if one["kind"] == "NetworkPolicy"
        and direction in one["spec"]["policyTypes"]
        and _selects(one["spec"]["podSelector"].get("matchLabels", {}), pod)
    ]


def _selects(labels: dict[str, str], pod: Manifest) -> bool:
    return labels.items() <= pod["metadata"]["labels"].items()


def dangling(objects: list[Manifest]) -> list[str]:
    """References to what is not there: claims, settings, services and their ports, pods of selectors."""
    there = {(one["kind"], one["metadata"]["name"]) for one in objects}
    wanted = {("Service", path["backend"]["service"]["name"]) for path in _paths(objects)}
    for pod in pods(objects).values():
        wanted |= _wanted_by(pod)
    found = [f"there is no {kind} {name}" for kind, name in sorted(wanted - there)]
    for one in objects:
        if one["kind"] in ("Service", "PodDisruptionBudget"):
            selector = one["spec"]["selector"]
            selected = [pod for pod in pods(objects).values() if _selects(selector.get("matchLabels", selector), pod)]
            if len(selected) != 1:
                found.append(f"{one['kind']} {one['metadata']['name']} selects {len(selected)} workloads")
    return found


def _wanted_by(pod: Manifest) -> set[tuple[str, str]]:
    wanted = set()
    for volume in pod["spec"].get("volumes", ()):
        if "persistentVolumeClaim" in volume:
            wanted.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        if "configMap" in volume:
            wanted.add(("ConfigMap", volume["configMap"]["name"]))
    for container in containers(pod):
        wanted |= {("ConfigMap", source["configMapRef"]["name"]) for source in container.get("envFrom", ())}
    return wanted


def _paths(objects: list[Manifest]) -> list[Manifest]:
    return [
        path
        for one in objects
        if one["kind"] == "Ingress"
        for rule in one["spec"]["rules"]
        for path in rule["http"]["paths"]
    ]
