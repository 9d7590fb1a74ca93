"""What a cluster says of a release: has a Job completed with its image since? Only here kubernetes is imported.

The answer counts, not Argo CD's health: of a CronJob's new image that says nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError

if TYPE_CHECKING:
    from datetime import datetime

_SECONDS = 5


class ClusterUnreachable(FlopsError):  # noqa: N818 - a state, not a mistake
    """There is no cluster to ask, or it does not answer; the message says why."""


@dataclass(frozen=True)
class Runs:
    """What ran in a cluster.

    Attributes:
        context: the kubeconfig's context that was asked.
        namespace: where.
        completed: how many Jobs completed with the release's digest since it was put in charge.
        failed: how many failed with it.
        last: when the newest of the completed ones ended, ISO 8601; empty where there is none.
    """

    context: str
    namespace: str
    completed: int
    failed: int
    last: str


def ask_cluster(namespace: str, digest: str, since: datetime) -> Runs:
    """Ask the cluster of the user's kubeconfig for Jobs of a release.

    Args:
        namespace: the environment's; empty for the context's own.
        digest: of the server's image.
        since: when the release was put in charge.

    Raises:
        ClusterUnreachable: there is no kubeconfig, or no answer.
    """
    try:
        from kubernetes import client, config
        from kubernetes.client.exceptions import ApiException
        from kubernetes.config.config_exception import ConfigException
        from urllib3.exceptions import HTTPError
        from yaml import YAMLError
    except ImportError as error:
        raise ClusterUnreachable("the kubernetes library is not installed") from error
    try:
        kubeconfig: Any = config
        # The library reads the variable when it is imported.
        file = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
        _, context = kubeconfig.list_kube_config_contexts(file)
        chosen: Any = client.Configuration()
        kubeconfig.load_kube_config(file, context["name"], client_configuration=chosen)
        chosen.retries = False
        api_client: Any = client.ApiClient(chosen)
    except (ConfigException, YAMLError, OSError, TypeError, KeyError, ValueError) as error:
        raise ClusterUnreachable(f"no kubeconfig that can be used: {_line(error)}") from error
    place = namespace or context.get("context", {}).get("namespace") or "default"
    try:
        batch, core = client.BatchV1Api(api_client), client.CoreV1Api(api_client)
        jobs: Any = batch.list_namespaced_job(place, _request_timeout=_SECONDS).items
        pods: Any = core.list_namespaced_pod(place, label_selector="job-name", _request_timeout=_SECONDS).items
    except ApiException as error:
        raise ClusterUnreachable(f"{context['name']}: {error.status} {error.reason}") from error
    except (HTTPError, OSError, ValueError) as error:
        raise ClusterUnreachable(f"{context['name']}: does not answer: {_line(error)}") from error
    finally:
        api_client.close()
    ran = {pod.metadata.labels["job-name"] for pod in pods if _ran(pod, digest)}
    ours = [
        job
        for job in jobs
        if job.metadata.creation_timestamp >= since and (job.metadata.name in ran or _names(job, digest))
    ]
    completed = [job for job in ours if job.status.succeeded]
    last = max((job.status.completion_time for job in completed if job.status.completion_time), default=None)
    failed = sum(1 for job in ours if job.status.failed and not job.status.succeeded)
    return Runs(context["name"], place, len(completed), failed, last.isoformat() if last else "")


def _ran(pod: Any, digest: str) -> bool:
    return any(digest in (status.image_id or "") for status in pod.status.container_statuses or [])


def _names(job: Any, digest: str) -> bool:
    """Tell whether a Job's own manifest names the digest; its pods may be gone."""
    return any(digest in (container.image or "") for container in job.spec.template.spec.containers)


def _line(error: BaseException) -> str:
    return " ".join(str(error).replace(str(Path.home()), "~").split())[:200]
