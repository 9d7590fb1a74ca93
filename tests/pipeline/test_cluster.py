"""What a cluster says of a release, through a server that answers as Kubernetes' API does."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.cluster import ClusterUnreachable, ask_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIGEST = f"sha256:{'1' * 64}"
SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def job(name: str, created: str, image: str = "x", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": {"template": {"spec": {"containers": [{"name": "global-server", "image": image}]}}},
        "status": status,
    }


def pod(of: str, image_id: str) -> dict[str, Any]:
    status = {"name": "a", "image": "b", "imageID": image_id, "ready": False, "restartCount": 0}
    return {
        "metadata": {"name": f"{of}-x", "labels": {"job-name": of}},
        "status": {"containerStatuses": [status]},
    }


JOBS = [
    job("before", "2025-12-31T23:00:00Z", f"a@{DIGEST}", succeeded=1, completionTime="2025-12-31T23:01:00Z"),
    job("other", "2026-01-01T01:00:00Z", succeeded=1, completionTime="2026-01-01T01:01:00Z"),
    job("named", "2026-01-01T02:00:00Z", f"a@{DIGEST}", succeeded=1, completionTime="2026-01-01T02:01:00Z"),
    job("ran", "2026-01-01T03:00:00Z", succeeded=1, completionTime="2026-01-01T03:01:00Z"),
    job("failed", "2026-01-01T04:00:00Z", f"a@{DIGEST}", failed=2),
    job("running", "2026-01-01T05:00:00Z", f"a@{DIGEST}", active=1),
]
PODS = [pod("ran", f"docker-pullable://a@{DIGEST}"), pod("other", "docker-pullable://a@sha256:2")]


@pytest.fixture
def answers() -> dict[str, tuple[int, Any]]:
    return {
        "/apis/batch/v1/namespaces/flops-dev/jobs": (200, {"kind": "JobList", "items": JOBS}),
        "/api/v1/namespaces/flops-dev/pods": (200, {"kind": "PodList", "items": PODS}),
    }


@pytest.fixture
def api(answers: dict[str, tuple[int, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, told = answers.get(self.path.partition("?")[0], (404, {}))
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "flops-dev"}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setattr(
            "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig")
        )
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("api")
@pytest.mark.parametrize("namespace", ["flops-dev", ""])
def test_jobs_since_the_release_with_its_digest_count(namespace: str) -> None:
    runs = ask_cluster(namespace, DIGEST, SINCE)
    assert (runs.context, runs.namespace, runs.completed, runs.failed) == ("here", "flops-dev", 2, 1)
    assert runs.last == "2026-01-01T03:01:00+00:00"


@pytest.mark.usefixtures("api")
def test_a_cluster_that_refuses_is_named(answers: dict[str, tuple[int, Any]]) -> None:
    answers["/apis/batch/v1/namespaces/flops-dev/jobs"] = (403, {"kind": "Status", "message": "no"})
    with pytest.raises(ClusterUnreachable, match="here: 403 Forbidden"):
        ask_cluster("flops-dev", DIGEST, SINCE)


def test_no_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ClusterUnreachable, match="no kubeconfig that can be used"):
        ask_cluster("flops-dev", DIGEST, SINCE)


def test_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "gone",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "gone", "context": {"cluster": "c", "user": "u"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with pytest.raises(ClusterUnreachable, match="gone: does not answer: "):
        ask_cluster("flops-dev", DIGEST, SINCE)
