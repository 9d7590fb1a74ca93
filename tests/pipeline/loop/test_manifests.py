"""What of manifests is understood, and how the rest is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.loop.manifests import build
from pipeline.loop.plan import Missing, plan
from pipeline.yaml_text import ManifestError
from tests.pipeline.loop.environments import CRON_JOB, IMAGE, KUSTOMIZATION, SERVICE, write

CONFIG_REPO = Path(__file__).parents[3] / "config-repo"
SECRETS = {"tracking": {"MLFLOW_TRACKING_URI": "http://here"}, "server-tls": {"tls.crt": "C", "tls.key": "K"}}


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_the_first_content_is_understood(environment: str) -> None:
    desired = build(CONFIG_REPO, environment, "abc")
    assert (list(desired.cron_jobs), list(desired.deployments)) == (["global-server"], ["serving"])
    assert {service.metadata.name for service in desired.services} == {"global-server", "serving"}
    assert len(desired.images) == 1


def test_a_pod_is_resolved(tmp_path: Path) -> None:
    desired = build(write(tmp_path), "dev", "abc123")
    made = plan(desired, "job", "global-server", desired.cron_jobs["global-server"].pod, SECRETS)
    assert made.image == IMAGE
    assert made.command == ("round",)
    assert made.environment == {
        "MLFLOW_TRACKING_URI": "http://here",
        "FLOPS_IMAGE": IMAGE,
        "FLOPS_CONFIG_COMMIT": "abc123",
    }
    federation, tls = made.files
    assert (federation.path, dict(federation.content)) == (
        "/etc/federation",
        {"federation.toml": 'task = "digits"\n'},
    )
    assert (tls.path, tls.mode, tls.group) == ("/etc/tls", 0o440, 10001)
    assert dict(tls.content) == SECRETS["server-tls"]
    assert (made.scratch, made.user, made.read_only) == ({"/tmp": 2**30}, "10001:10001", True)  # noqa: S108
    assert (made.drop, made.escalates) == (("ALL",), False)
    assert (made.memory, made.cores, made.grace) == (2 * 2**30, 0.5, 20)
    assert (made.aliases, made.publish) == (("global-server",), {8080: 30880})


def test_the_commit_alone_makes_no_other_pod_and_a_file_does(tmp_path: Path) -> None:
    def digest(commit: str, task: str) -> str:
        desired = build(write(tmp_path, federation__toml=task), "dev", commit)
        return plan(desired, "job", "global-server", desired.cron_jobs["global-server"].pod, SECRETS).digest

    assert digest("one", "a = 1") == digest("two", "a = 1") != digest("one", "a = 2")


def test_what_a_pod_lacks_is_named(tmp_path: Path) -> None:
    desired = build(write(tmp_path), "dev", "abc")
    pod = desired.cron_jobs["global-server"].pod
    with pytest.raises(Missing, match="secret 'tracking' is missing"):
        plan(desired, "job", "global-server", pod, {})
    with pytest.raises(Missing, match="secret 'server-tls' is missing"):
        plan(desired, "job", "global-server", pod, {"tracking": {}})


@pytest.mark.parametrize(
    ("file", "old", "new", "line", "told"),
    [
        ("cronjob", "concurrencyPolicy: Forbid", "concurrencyPolicy: Allow", 7, "spec.concurrencyPolicy"),
        ("cronjob", "activeDeadlineSeconds", "activeDeadline", 10, "refuses it rather than ignoring it"),
        ("cronjob", "restartPolicy: Never", "restartPolicy: OnFailure", 15, "restartPolicy"),
        ("cronjob", "restartPolicy: Never", "restartPolicy: Always", 15, "restartPolicy Never is needed"),
        ("cronjob", "restartPolicy: Never", "restartPolicy: Never\n          hostNetwork: true", 16, "hostNetwork"),
        ("cronjob", '"*/5 * * * *"', '"*/5 * * *"', 6, "schedule '*/5 * * *' is none"),
        ("cronjob", '"*/5 * * * *"', '"*/5 * * * *"\n  timeZone: Mars/Olympus', 7, "'Mars/Olympus' is not known"),
        ("cronjob", "memory: 2Gi", "memory: 2 GB", 28, "no amount of memory"),
        ("cronjob", f"image: {IMAGE}", "image: Not An Image", 20, "is no image's name"),
        ("cronjob", "name: scratch, mountPath", "name: other, mountPath", 36, "there is no volume 'other'"),
        ("cronjob", "emptyDir: {sizeLimit: 1Gi}", "hostPath: {path: /etc}", 40, "hostPath"),
        ("cronjob", "kind: CronJob", "kind: DaemonSet", 2, "kind 'DaemonSet' is not understood here"),
        ("cronjob", "spec:\n  schedule", "spec:\n\tschedule", 6, "YAML wants spaces there, not tabs"),
        ("cronjob", "args: [round]", "args: [round", 22, "is not YAML"),
        ("service", "port: 8080,", "port: 80,", 8, "leads to port 8080; the loop gives the service's name"),
        ("service", "targetPort: fleet", "targetPort: none", 8, "which no container has"),
        ("service", "type: NodePort", "type: ExternalName", 6, "spec.type"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(
    tmp_path: Path, file: str, old: str, new: str, line: int, told: str
) -> None:
    text = CRON_JOB if file == "cronjob" else SERVICE
    assert old in text
    root = write(tmp_path, **{f"{file}__yaml": text.replace(old, new)})
    with pytest.raises(ManifestError, match=rf"dev/{file}\.yaml, line {line}: .*{re.escape(told)}"):
        build(root, "dev", "abc")


def test_folders_and_kustomizations_that_are_none(tmp_path: Path) -> None:
    root = write(tmp_path)
    with pytest.raises(ManifestError, match=r"prod/kustomization\.yaml: is not there; the repository has dev"):
        build(root, "prod", "abc")
    for wrong, told in (
        (KUSTOMIZATION.replace("service.yaml", "none.yaml"), "none.yaml"),
        (KUSTOMIZATION + "nothing: 1\n", "nothing"),
        (KUSTOMIZATION.replace("federation.toml", "missing.toml"), "missing.toml"),
    ):
        with pytest.raises(ManifestError, match=rf"dev/kustomization\.yaml: kustomize: .*{re.escape(told)}"):
            build(write(tmp_path, kustomization__yaml=wrong), "dev", "abc")


def test_a_file_that_no_job_could_read_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path, federation__toml="task = [")
    with pytest.raises(ManifestError, match=r"dev/federation\.toml: is not TOML: .*\(at end of document\)"):
        build(root, "dev", "abc")


def test_secrets_in_the_repository_are_refused(tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: tracking}\nstringData: {a: b}\n"
    with pytest.raises(ManifestError, match=r"dev/secret\.yaml, line 2: kind 'Secret' is not understood"):
        build(write(tmp_path, secret__yaml=text), "dev", "abc")
