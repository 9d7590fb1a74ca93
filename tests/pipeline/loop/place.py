"""A config repository of small programs, and its loop."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.pipeline.loop.process import Up
from tests.pipeline.registry_server import PASSWORD, USER
from tests.pipeline.repositories import add_commit, make_bare

if TYPE_CHECKING:
    from pathlib import Path

    from docker import DockerClient
    from docker.models.containers import Container

SLEEPS = "import signal, time; signal.signal(15, lambda *_: exit(0)); print('here', flush=True); time.sleep(3600)"
FAILS = "import sys; print('no luck'); sys.exit(3)"


def deployment(name: str, image: str, program: str, **more: Any) -> str:
    """A Deployment that runs a program of Python."""
    container = {
        "name": name,
        "image": image,
        "command": ["python3", "-c"],
        "args": [program],
        "volumeMounts": [
            {"name": "federation", "mountPath": "/etc/federation", "readOnly": True},
            {"name": "may-be", "mountPath": "/etc/may-be", "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108
        ],
        "securityContext": {"readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        **more,
    }
    pod = {
        "terminationGracePeriodSeconds": 3,
        "securityContext": {"runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001},
        "containers": [container],
        "volumes": [
            {"name": "federation", "configMap": {"name": "federation", "defaultMode": 0o440}},
            {"name": "may-be", "configMap": {"name": "may-be", "optional": True}},
            {"name": "scratch", "emptyDir": {}},
        ],
    }
    labels = {"app": name}
    return json.dumps(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
        }
    )


def cron_job(image: str, program: str, **job: Any) -> str:
    """A CronJob that is due every minute."""
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 2,
        "containers": [
            {"name": "global-server", "image": image, "command": ["python3", "-c"], "args": [program]},
        ],
    }
    return json.dumps(
        {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": "global-server"},
            "spec": {
                "schedule": "* * * * *",
                "concurrencyPolicy": "Forbid",
                "jobTemplate": {"spec": {"backoffLimit": 0, **job, "template": {"spec": pod}}},
            },
        }
    )


class Place:
    """A config repository and its loop."""

    def __init__(self, folder: Path, image: str) -> None:
        self.folder, self.image = folder, image
        self.config = make_bare(folder / "config.git", {})
        self.state = folder / "loop"
        self.never = cron_job(image, "pass").replace("* * * * *", "0 0 29 2 *")
        self.secret("server-tls", **{"tls.crt": "C", "tls.key": "K", "ca.crt": "A"})
        self._up: Up | None = None

    def secret(self, secret: str, **files: str) -> None:
        place = self.state / "secrets" / secret
        place.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (place / name).write_text(text)

    def push(self, **objects: str) -> str:
        """Push an environment of some objects; returns the commit."""
        objects = {"global_server": self.never, **objects}
        files = {f"dev/{name}.yaml": text for name, text in objects.items()}
        files["dev/federation.toml"] = 'task = "digits"\n'
        files["dev/kustomization.yaml"] = json.dumps(
            {
                "resources": [f"{name}.yaml" for name in objects],
                "configMapGenerator": [{"name": "federation", "files": ["federation.toml"]}],
            }
        )
        return add_commit(self.config, files, "change")

    def up(self, *words: str, host: str = "") -> Up:
        environment = {"HARBOR_USERNAME": USER, "HARBOR_PASSWORD": PASSWORD}
        environment |= {"DOCKER_HOST": host} if host else {}
        words = (str(self.config), "--every", "0.5", "--tracking", "http://none.invalid", *words)
        self._up = Up(self.folder, self.state, *words, environment=environment)
        return self._up

    def close(self) -> None:
        if self._up is not None:
            self._up.stop()
            self._up.down("--purge")
            self._up = None


def find(engine: DockerClient, owner: str) -> Container:
    (found,) = engine.containers.list(filters={"label": [f"io.flops.up.owner={owner}"]})
    return found
