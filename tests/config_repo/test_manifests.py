"""The first content of the config repository: it builds as Argo CD builds it, and Kubernetes takes it."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipeline.loop.manifests import build as loop_reads

ROOT = Path(__file__).parents[2] / "config-repo"
ENVIRONMENTS = ("dev", "prod")
OLDEST = "1.27"
SCHEMAS = Path(__file__).with_name("schemas")
KINDS = {
    "dev": ["ConfigMap", "CronJob", "Deployment", "NetworkPolicy", "Service"],
    "prod": ["ConfigMap", "CronJob", "Deployment", "NetworkPolicy", "Service"],
    "mlflow": ["Deployment", "NetworkPolicy", "PersistentVolumeClaim", "Service"],
}
PODS = [
    ("dev", "CronJob"),
    ("dev", "Deployment"),
    ("prod", "CronJob"),
    ("prod", "Deployment"),
    ("mlflow", "Deployment"),
]


def build(folder: str | Path) -> list[dict[str, Any]]:
    """Return the objects that Argo CD would apply of a folder."""
    return [found for found in yaml.safe_load_all(_built(folder)) if found]


@cache
def _built(folder: str | Path) -> str:
    kubectl = Path(sys.executable).with_name("kubectl")
    ended = subprocess.run([kubectl, "kustomize", str(ROOT / folder)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def pod(objects: list[dict[str, Any]], kind: str = "CronJob") -> dict[str, Any]:
    """Return the pod of the CronJob, or of the Deployment."""
    (owner,) = (found for found in objects if found["kind"] == kind)
    spec: dict[str, Any] = owner["spec"]
    if kind == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    found: dict[str, Any] = spec["template"]["spec"]
    return found


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


@pytest.mark.parametrize("environment", KINDS)
def test_each_folder_builds_and_is_valid(environment: str) -> None:
    objects = build(environment)
    assert sorted({found["kind"] for found in objects}) == KINDS[environment]
    for found in objects:
        assert found["metadata"]["namespace"] == f"flops-{environment}"
        for version in (OLDEST, kubernetes_validate.latest_version()):
            kubernetes_validate.validate(found, version, strict=True)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_keys_are_asked_for_without_the_comment_signs(environment: str, tmp_path: Path) -> None:
    folder = tmp_path / environment
    shutil.copytree(ROOT / environment, folder)
    manifest, lines, parts = folder / "serving.yaml", [], 0
    inside = False
    for line in manifest.read_text().splitlines():
        begins = re.search(r"# - name: (FLOPS_API_KEYS|api-keys)$", line) is not None
        inside = begins or (inside and line.lstrip().startswith("#   "))
        parts += begins
        lines.append(line.replace("# ", "", 1) if inside else line)
    assert parts == 3
    manifest.write_text("\n".join(lines) + "\n")
    objects = build(folder)
    for found in objects:
        kubernetes_validate.validate(found, kubernetes_validate.latest_version(), strict=True)
    spec = pod(objects, "Deployment")
    (container,) = spec["containers"]
    (file,) = (variable["value"] for variable in container["env"] if variable["name"] == "FLOPS_API_KEYS")
    (place,) = (mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "api-keys")
    assert Path(file) == Path(place) / "keys"
    assert {"name": "api-keys", "secret": {"secretName": "api-keys"}} in spec["volumes"]
    assert loop_reads(tmp_path, environment, "0" * 40).deployments


def config_maps(spec: dict[str, Any], *, optional: bool = False) -> dict[str, str]:
    """Return the config maps that a pod mounts, by the volume's name: those that must be there, or that may."""
    volumes = {v["name"]: v["configMap"] for v in spec["volumes"] if "configMap" in v}
    return {name: v["name"] for name, v in volumes.items() if v.get("optional", False) is optional}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_what_the_pod_mounts_is_there(environment: str) -> None:
    objects = build(environment)
    maps = {found["metadata"]["name"]: found.get("data", {}) for found in objects if found["kind"] == "ConfigMap"}
    mounted, may_be = config_maps(pod(objects)), config_maps(pod(objects), optional=True)
    assert set(mounted.values()) == set(maps)
    assert maps[mounted["federation"]]["federation.toml"] == (ROOT / environment / "federation.toml").read_text()
    serving = pod(objects, "Deployment")
    assert set(config_maps(serving).values()) == {mounted["federation"]}
    # The CA of the house's model registry, where it has one.
    assert may_be == config_maps(serving, optional=True) == {"tracking-ca": "tracking-ca"}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_one_image_serves_and_both_know_its_name(environment: str) -> None:
    objects = build(environment)
    images = set()
    for kind in ("CronJob", "Deployment"):
        (container,) = pod(objects, kind)["containers"]
        (named,) = (variable["value"] for variable in container["env"] if variable["name"] == "FLOPS_IMAGE")
        images |= {container["image"], named}
    assert len(images) == 1


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_job_reads_the_commit_that_argo_cd_writes(environment: str) -> None:
    (container,) = pod(build(environment))["containers"]
    (path,) = (
        v["valueFrom"]["fieldRef"]["fieldPath"] for v in container["env"] if v["name"] == "FLOPS_CONFIG_COMMIT"
    )
    source = yaml.safe_load((ROOT / "argocd" / f"{environment}.yaml").read_text())["spec"]["source"]["kustomize"]
    assert source["commonAnnotationsEnvsubst"] is True
    ((name, value),) = source["commonAnnotations"].items()
    assert (path, value) == (f"metadata.annotations['{name}']", "$ARGOCD_APP_REVISION")


def test_who_selects_and_who_is_selected() -> None:
    for environment in KINDS:
        objects = build(environment)
        labels = []
        for found in objects:
            if found["kind"] in ("CronJob", "Deployment"):
                spec = found["spec"].get("jobTemplate", found)["spec"]
                labels.append((spec["template"]["metadata"]["labels"], spec["template"]["spec"]["containers"][0]))
        for found in objects:
            if found["kind"] == "Service":
                (container,) = (c for told, c in labels if found["spec"]["selector"].items() <= told.items())
                ports = {port["name"] for port in container["ports"]}
                assert {port["targetPort"] for port in found["spec"]["ports"]} <= ports


@pytest.mark.parametrize(("environment", "kind"), PODS)
def test_pods_are_restricted(environment: str, kind: str) -> None:
    assert unrestricted(pod(build(environment), kind)) == []


@pytest.mark.parametrize(("environment", "kind"), PODS)
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
def test_one_field_less_is_noticed(field: tuple[Any, ...], environment: str, kind: str) -> None:
    spec = copy.deepcopy(pod(build(environment), kind))
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
    comparing = 20 + told["round_deadline"]  # The champion is fetched, and measured beside the last round's model.
    assert told["join_timeout"] + told["rounds"] * 2 * told["round_deadline"] + comparing < deadline


def test_environments_share_neither_a_model_nor_a_port() -> None:
    models = {tomllib.loads((ROOT / name / "federation.toml").read_text())["model"] for name in ENVIRONMENTS}
    assert len(models) == len(ENVIRONMENTS)
    ports = {
        port["nodePort"]
        for name in ENVIRONMENTS
        for found in build(name)
        if found["kind"] == "Service"
        for port in found["spec"]["ports"]
        if "nodePort" in port
    }
    assert len(ports) == len(ENVIRONMENTS)


def strict(schema: Any) -> Any:
    """Return a schema that takes no field but those that it names."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


@cache
def argocd() -> list[dict[str, Any]]:
    schemas = {
        name: strict(json.loads((SCHEMAS / f"{name.lower()}.json").read_text()))
        for name in ("Application", "AppProject")
    }
    schemas["Application"]["properties"]["metadata"] = schemas["AppProject"]["properties"]["metadata"] = {}
    objects = build("argocd")
    for found in objects:
        jsonschema.validate(found, schemas[found["kind"]])
    return objects


def test_argo_cd_takes_its_objects() -> None:
    kinds = [found["kind"] for found in argocd()]
    assert sorted(kinds) == ["AppProject", "Application", "Application", "Application"]


def test_a_field_that_argo_cd_does_not_know_is_noticed() -> None:
    schema = strict(json.loads((SCHEMAS / "application.json").read_text()))
    found = yaml.safe_load((ROOT / "argocd" / "dev.yaml").read_text())
    del found["metadata"]
    jsonschema.validate({**found, "metadata": {}}, schema)
    found["spec"]["syncPolicy"]["automatd"] = {}
    with pytest.raises(jsonschema.ValidationError, match="automatd"):
        jsonschema.validate({**found, "metadata": {}}, schema)


def test_the_project_lets_its_applications_do_what_they_do() -> None:
    objects = argocd()
    (project,) = (found["spec"] for found in objects if found["kind"] == "AppProject")
    kinds = {(allowed["group"], allowed["kind"]) for allowed in project["namespaceResourceWhitelist"]}
    places = {(place["server"], place["namespace"]) for place in project["destinations"]}
    for found in objects:
        if found["kind"] == "Application":
            spec = found["spec"]
            assert spec["source"]["repoURL"] in project["sourceRepos"]
            assert (spec["destination"]["server"], spec["destination"]["namespace"]) in places
            for applied in build(spec["source"]["path"]):
                group = applied["apiVersion"].rpartition("/")[0]
                assert (group, applied["kind"]) in kinds
                assert applied["metadata"]["namespace"] == spec["destination"]["namespace"]


def test_dev_follows_by_itself_and_prod_waits_for_a_person() -> None:
    policies = {found["metadata"]["name"]: found["spec"].get("syncPolicy") for found in argocd()}
    assert policies["flops-dev"]["automated"] == {"prune": True, "selfHeal": True}
    for name in ("flops-prod", "flops-mlflow"):
        assert "automated" not in policies[name]
    for name in ("flops-dev", "flops-prod", "flops-mlflow"):
        assert policies[name]["retry"]["limit"] > 0
        labels = policies[name]["managedNamespaceMetadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_secret_is_applied_and_the_template_is_no_manifest() -> None:
    for folder in (*KINDS, "argocd"):
        assert "Secret" not in {found["kind"] for found in build(folder)}
    (template,) = (ROOT / "argocd").glob("*.template")
    found = yaml.safe_load(template.read_text())
    assert found["metadata"]["labels"] == {"argocd.argoproj.io/secret-type": "repository"}
    kubernetes_validate.validate(found, OLDEST, strict=True)
    assert not list(ROOT.rglob("*secret*.yaml"))


def test_mlflow_understands_its_arguments(tmp_path: Path) -> None:
    (container,) = pod(build("mlflow"), "Deployment")["containers"]
    arguments = [word.replace("/data", str(tmp_path)) for word in container["args"]]
    command = [
        sys.executable,
        "-c",
        "import sys; from mlflow.cli import cli; cli.commands['server'].make_context('x', sys.argv[1:])",
    ]
    ended = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    tag = container["image"].rpartition(":v")[2]
    assert f"mlflow=={tag}" in (ROOT.parent / "constraints.txt").read_text().splitlines()


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_server_reads_the_federation(environment: str) -> None:
    from server.settings import read_federation

    read_federation(ROOT / environment / "federation.toml")
