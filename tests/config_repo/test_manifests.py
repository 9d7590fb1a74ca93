"""The first content of the config repository: it builds as Argo CD builds it, and Kubernetes takes it."""

from __future__ import annotations

import copy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2] / "config-repo"
ENVIRONMENTS = ("dev", "prod")
OLDEST = "1.27"
VOLUMES = ("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret")


def build(environment: str) -> list[dict[str, Any]]:
    """Return the objects that Argo CD would apply."""
    kubectl = Path(sys.executable).with_name("kubectl")
    ended = subprocess.run([kubectl, "kustomize", str(ROOT / environment)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return [found for found in yaml.safe_load_all(ended.stdout) if found]


def pod(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the pod of the CronJob."""
    (job,) = (found for found in objects if found["kind"] == "CronJob")
    spec: dict[str, Any] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return spec


def unrestricted(spec: dict[str, Any]) -> list[str]:
    """Return what of a pod the restricted pod security standard does not allow."""
    wrong = []
    security = spec.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or security.get("runAsUser", 0) == 0:
        wrong.append("runAsNonRoot")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        wrong.append("seccompProfile")
    if {"hostNetwork", "hostPID", "hostIPC"} & set(spec):
        wrong.append("host")
    kinds = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    if any(set(volume) - {"name"} - kinds for volume in spec.get("volumes", ())):
        wrong.append("volumes")
    for container in spec["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False:
            wrong.append("allowPrivilegeEscalation")
        if own.get("capabilities", {}).get("drop") != ["ALL"]:
            wrong.append("capabilities")
        if own.get("readOnlyRootFilesystem") is not True:
            wrong.append("readOnlyRootFilesystem")
        if {"privileged", "runAsUser", "runAsNonRoot"} & set(own):
            wrong.append("override")
    if spec.get("automountServiceAccountToken") is not False:
        wrong.append("automountServiceAccountToken")
    return wrong


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_each_environment_builds_and_is_valid(environment: str) -> None:
    objects = build(environment)
    assert sorted({found["kind"] for found in objects}) == ["ConfigMap", "CronJob", "NetworkPolicy", "Service"]
    for found in objects:
        assert found["metadata"]["namespace"] == f"flops-{environment}"
        for version in (OLDEST, kubernetes_validate.latest_version()):
            kubernetes_validate.validate(found, version, strict=True)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_what_the_pod_mounts_is_there(environment: str) -> None:
    objects = build(environment)
    maps = {found["metadata"]["name"]: found.get("data", {}) for found in objects if found["kind"] == "ConfigMap"}
    mounted = {v["name"]: v["configMap"]["name"] for v in pod(objects)["volumes"] if "configMap" in v}
    assert set(mounted.values()) == set(maps)
    assert maps[mounted["federation"]]["federation.toml"] == (ROOT / environment / "federation.toml").read_text()


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_pod_is_restricted(environment: str) -> None:
    assert unrestricted(pod(build(environment))) == []


@pytest.mark.parametrize(
    "field",
    [
        ("securityContext", "runAsNonRoot"),
        ("securityContext", "runAsUser"),
        ("securityContext", "seccompProfile"),
        ("automountServiceAccountToken",),
        ("containers", 0, "securityContext"),
        ("containers", 0, "securityContext", "allowPrivilegeEscalation"),
        ("containers", 0, "securityContext", "capabilities"),
        ("containers", 0, "securityContext", "readOnlyRootFilesystem"),
    ],
)
def test_one_field_less_is_noticed(field: tuple[Any, ...]) -> None:
    spec = copy.deepcopy(pod(build("dev")))
    place: Any = spec
    for key in field[:-1]:
        place = place[key]
    del place[field[-1]]
    assert unrestricted(spec)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_job_is_over_before_the_next_one_is_due(environment: str) -> None:
    (job,) = (found for found in build(environment) if found["kind"] == "CronJob")
    spec = job["spec"]
    minutes, *rest = spec["schedule"].split()
    assert rest == ["*"] * 4
    period = 60 * int(minutes.removeprefix("*/"))
    deadline = spec["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    assert deadline + pod([job])["terminationGracePeriodSeconds"] < period
    assert 10 < spec["startingDeadlineSeconds"] < period
    told = tomllib.loads((ROOT / environment / "federation.toml").read_text())
    assert told["join_timeout"] + told["rounds"] * 2 * told["round_deadline"] < deadline


def test_environments_share_neither_a_model_nor_a_port() -> None:
    models = {tomllib.loads((ROOT / name / "federation.toml").read_text())["model"] for name in ENVIRONMENTS}
    assert len(models) == len(ENVIRONMENTS)
    ports = {
        port["nodePort"]
        for name in ENVIRONMENTS
        for found in build(name)
        if found["kind"] == "Service"
        for port in found["spec"]["ports"]
    }
    assert len(ports) == len(ENVIRONMENTS)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_server_reads_the_federation(environment: str) -> None:
    from server.settings import read_federation

    read_federation(ROOT / environment / "federation.toml")
