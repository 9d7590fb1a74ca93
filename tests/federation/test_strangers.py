"""Whoever is not on the allow-list, and whoever is and asks for what no hospital needs."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fl.appbundle import make_bundle
from fl.keys import read_private
from tests.federation.conftest import invoke
from tests.federation.processes import Federation, Registry, cleaned

pytestmark = [pytest.mark.xdist_group("crowd-2"), pytest.mark.federation]

FLWR = Path(sys.executable).parent / "flwr"

COMMANDS = {
    "run": ("run", ".", "target"),
    "list": ("list", "target"),
    "log": ("log", "1", "target"),
    "stop": ("stop", "1", "target"),
    "pull": ("pull", "1", "target"),
    "login": ("login", "target"),
    "register": ("supernode", "register", "key.pub", "target"),
    "supernodes": ("supernode", "list", "target"),
    "federations": ("federation", "list", "target"),
}

PATHS = (
    "/",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/metrics",
    "/v1/control/start-run",
    "/v1/control/list-runs",
    "/v1/control/register-node",
    "/v1/control/list-nodes",
    "/v1/control/get-login-details",
    "/v1/runtime/pull-messages",
    "/v1/runtime/push-messages",
    "/v1/runtime/pull-app-inputs",
    "/v1/runtime/claim-task",
    "/v1/fleet/../control/start-run",
    "/v1/fleet/%2e%2e/control/list-runs",
    "//v1/control/list-runs",
)


@pytest.fixture(scope="module")
def waiting(tmp_path_factory, materials, tables):
    """A federation whose job waits for hospitals that never come."""
    folder = tmp_path_factory.mktemp("strangers")
    with cleaned(Federation(folder / "federation", materials)) as found:
        job = found.start_job(
            Registry(folder / "registry", tables), ["east", "north"], join_timeout=280.0, min_hospitals=2
        )
        job.wait_for("from the task's first weights")
        yield found
        job.terminate()
        ended = job.end()
        assert ended.code == 1


@pytest.fixture(scope="module")
def https(waiting):
    """A client that trusts the federation's CA."""
    context = ssl.create_default_context(cafile=str(waiting.ca))
    with httpx.Client(base_url=f"https://localhost:{waiting.port}", verify=context, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def routes():
    """All routes that Flower's own server has."""
    from flwr.supercore.routers.runtime.router import router as runtime
    from flwr.superlink.routers.control.router import router as control

    found = [route.path for router in (control, runtime) for route in router.routes]
    assert len(found) > 10
    return found


def signed(waiting, name):
    """Return the headers that a node's requests carry, made with a hospital's private key."""
    key = read_private(waiting.key(name) / "node.key")
    context = SimpleNamespace(request=httpx.Request("POST", "https://localhost/"))
    NodeAuthHttpInterceptor(key, key.public_key()).intercept(context, lambda _: httpx.Response(200))
    return {k: v for k, v in context.request.headers.items() if k not in ("host", "content-length")} | {
        "content-type": PROTOBUF_MEDIA_TYPE
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_flowers_own_command_line_reaches_nothing(command, waiting, tmp_path):
    home = tmp_path / "flwr"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "target"\n\n[superlink.target]\naddress = "localhost:{waiting.port}"\n'
        f'root-certificates = "{waiting.ca}"\n'
    )
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("x", "")
    (tmp_path / "pyproject.toml").write_bytes(_pyproject())
    for package in ("server", "client"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "app.py").write_text("app = None\n")
    shutil.copy(waiting.key("east") / "east.pub", tmp_path / "key.pub")
    ended = subprocess.run(
        [FLWR, *COMMANDS[command]],
        cwd=tmp_path,
        env={**os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode != 0, said
    # It has got as far as the server: a command line that is wrong, or no connection, would prove nothing.
    assert "Usage:" not in said
    assert "404" in said or "Not Found" in said or "NOT_FOUND" in said, said


def _pyproject():
    import io

    with zipfile.ZipFile(io.BytesIO(make_bundle())) as archive:
        return archive.read("pyproject.toml")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS"])
def test_there_is_nothing_but_the_fleet_api(method, https):
    for path in PATHS:
        answer = https.request(method, httpx.URL(f"{https.base_url}".rstrip("/") + path))
        # What begins like the Fleet API is not read without a key; with one, see below, there is nothing either.
        assert answer.status_code == (403 if method == "POST" and path.startswith("/v1/fleet/%") else 404), path
        assert answer.content == b""
    assert https.get("/health").status_code == 200


def test_an_admitted_key_opens_no_other_door(waiting, https, routes):
    for path in (*routes, *PATHS):
        answer = https.post(f"{https.base_url}".rstrip("/") + path, headers=signed(waiting, "east"))
        assert answer.status_code == 404, path


def test_the_fleet_api_wants_a_key_and_its_proof(waiting, https):
    path = "/v1/fleet/pull-messages"
    assert https.post(path).status_code == 403
    assert https.post(path, headers=signed(waiting, "stranger")).status_code == 403
    theirs, ours = signed(waiting, "east"), signed(waiting, "stranger")
    (signature,) = (name for name in ours if "signature" in name)
    assert https.post(path, headers={**theirs, signature: ours[signature]}).status_code in (401, 403)
    assert https.post(path, headers={k: v for k, v in theirs.items() if k != signature}).status_code in (401, 403)


def test_what_is_too_large_is_not_read(waiting, https):
    from server.superlink.guard import MAX_BODY

    path = "/v1/fleet/push-object"
    body = b"x" * (MAX_BODY + 1)
    headers = signed(waiting, "east")
    assert https.post(path, content=body, headers=headers).status_code == 413

    def endless():
        for _ in range(64):
            yield b"x" * 2**20

    with contextlib.suppress(httpx.WriteError):  # The connection may be closed while it is still written to.
        assert https.post(path, content=endless(), headers=headers).status_code == 413
    assert https.get("/health").status_code == 200


def connect(waiting, headers, length):
    """Open a connection and send a request's head alone."""
    context = ssl.create_default_context(cafile=str(waiting.ca))
    plain = socket.create_connection(("localhost", waiting.port), timeout=20)
    found = context.wrap_socket(plain, server_hostname="localhost")
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = ["POST /v1/fleet/push-object HTTP/1.1", "host: localhost", f"content-length: {length}", *lines, "", ""]
    found.sendall("\r\n".join(head).encode())
    return found


def test_nothing_is_read_of_whoever_only_knows_a_public_key(waiting):
    theirs = {k: v for k, v in signed(waiting, "east").items() if "signature" not in k}
    with connect(waiting, theirs, 10**6) as waits:
        assert waits.recv(100).startswith(b"HTTP/1.1 401 ")
    with connect(waiting, signed(waiting, "east"), 10**6) as waits:
        waits.settimeout(1.0)
        with pytest.raises(TimeoutError):
            waits.recv(100)


def test_a_hospital_that_dawdles_keeps_no_other_out(waiting, https):
    from server.superlink.guard import OPEN_AT_ONCE, QUICK_SECONDS

    headers = {name: signed(waiting, name) for name in ("east", "north")}
    with contextlib.ExitStack() as stack:
        for _ in range(OPEN_AT_ONCE):
            stack.enter_context(connect(waiting, headers["east"], 10**6))
        time.sleep(0.5)
        path, began = "/v1/fleet/push-object", time.monotonic()
        assert https.post(path, headers=headers["east"]).status_code == 503
        # An empty body names no node; that is found out behind the rooms.
        assert https.post(path, headers=headers["north"]).status_code == 401
        assert time.monotonic() - began < QUICK_SECONDS


def test_plain_http_is_not_understood(waiting):
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://localhost:{waiting.port}/health", timeout=20)


def test_hospitals_join_only_who_can_be_trusted(federation, registry, tmp_path):
    """A key that is not listed, a listed one that is struck off, certificates of another CA and of the same one."""
    east = federation.start_hospital("east")
    stranger = federation.start_hospital("stranger")
    east.wait_for("waiting for it")
    stranger.wait_for("waiting for it")
    first = federation.start_job(registry, ["east"], min_hospitals=1)
    stranger.wait_for("does not let this hospital in")
    ended = first.end()
    assert ended.code == 0, ended.log
    assert ended.hospitals == ["east"]
    assert "a node with a key that is not on the allow-list was turned away: SHA256:" in ended.log
    assert federation.receipts("stranger") == []
    # Another certificate of the same CA: nothing is noticed. And a hospital is struck off, another listed.
    tls = tmp_path / "tls"
    shutil.copytree(federation.tls, tls)
    invoke("server", "certificate", "--host", "localhost", "--out", tls)
    assert (tls / "server.pem").read_bytes() != (federation.tls / "server.pem").read_bytes()
    east.wait_for("waiting for the next")
    east.look_away()
    ended = federation.run_job(registry, ["stranger"], tls=tls, min_hospitals=1, join_timeout=60.0)
    assert ended.code == 0, ended.log
    assert ended.hospitals == ["stranger"]
    assert "does not let this hospital in" in east.text
    # A server with the certificate of another CA is not joined.
    other = tmp_path / "other"
    invoke("server", "certificate", "--host", "localhost", "--out", other)
    stranger.look_away()
    impostor = federation.start_job(registry, ["stranger", "east"], tls=other, join_timeout=280.0)
    stranger.wait_for("its certificate is not accepted")
    impostor.terminate()
    ended = impostor.end()
    assert ended.json["hospitals"] == []
    assert "joined " not in stranger.text
