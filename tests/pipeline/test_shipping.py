"""Images for real: built by the engine, pushed to a registry with TLS and a password; and its bad days."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from server.certificates import make_certificates
from tests.pipeline.places import Place
from tests.pipeline.registry_server import PASSWORD, USER, Cable, RegistryServer
from tests.pipeline.repositories import add_commit, git, log, show
from tests.pipeline.sources import change

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from docker import DockerClient

    from tests.conftest import Ended
    from tests.pipeline.ssh_server import SshServer

pytestmark = [pytest.mark.docker, pytest.mark.registry]


@pytest.fixture
def place(
    tmp_path: Path, registry: RegistryServer, flops: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    made = Place(tmp_path, registry, flops, monkeypatch)
    yield made
    registry.trust()


def test_a_release_ships_both_images_and_bumps_the_digest(place: Place, engine: DockerClient) -> None:
    told = place.released()
    assert (told["outcome"], told["protocol"], told["smoke"]) == ("released", 1, None)
    assert datetime.strptime(told["release"], "%Y-%m-%d-%H-%M-%S").replace(tzinfo=UTC) <= datetime.now(UTC)
    commit = git(place.source, "rev-parse", "HEAD")
    for side in ("server", "client"):
        image = told["images"][side]
        assert image["image"] == f"{place.registry.host}/flops/{side}:{told['release']}@{image['digest']}"
        engine.images.remove(f"{place.registry.host}/flops/{side}:{told['release']}", force=True)
        pulled = engine.images.pull(image["image"], auth_config={"username": USER, "password": PASSWORD})
        assert pulled.labels == {
            "org.opencontainers.image.revision": commit,
            "org.opencontainers.image.created": pulled.labels["org.opencontainers.image.created"],
            "org.opencontainers.image.version": told["release"],
            "io.flops.protocol": "1",
        }
    wanted = place.manifest(place.registry.host).replace(
        "server:none", told["images"]["server"]["image"].split("/")[-1]
    )
    assert show(place.config, "dev/cronjob.yaml") == wanted
    assert git(place.config, "rev-parse", "main") == told["config_commit"]


def test_a_change_of_code_transfers_its_layer_alone_and_no_change_nothing(place: Place) -> None:
    (place.source / "fl" / "large.bin").write_bytes(os.urandom(3_000_000))
    change(place.source, {"fl/zeros.bin": "0" * 3_000_000}, "large")
    assert 3_000_000 < place.released()["images"]["server"]["bytes"] < 3_100_000  # As the registry stores it.
    place.change("2")
    again = place.released()["images"]
    assert again["server"]["bytes"] < 1_000
    assert again["client"]["bytes"] == 0
    head = log(place.config, "%H")
    assert place.released()["outcome"] == "unchanged"
    assert log(place.config, "%H") == head


def test_what_people_and_github_see(place: Place, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    place.set(GITHUB_STEP_SUMMARY=str(summary), GITHUB_ACTOR="octo")
    place.source.joinpath("fl", "new.py").write_text("")
    ended = place.release()
    assert ended.code == 0
    assert "the working tree holds changes that are not committed; they are not released" in ended.err
    assert "dev runs release" in ended.out.splitlines()[-1]
    assert "transferred" in ended.out
    assert summary.read_text().startswith("### dev runs release ")
    assert json.loads(show(place.config, "dev/release.json"))["by"] == "octo"
    assert PASSWORD not in ended.out + ended.err + summary.read_text()


def test_what_people_and_github_see_of_a_failure(place: Place, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    place.set(GITHUB_STEP_SUMMARY=str(summary), HARBOR_PASSWORD="wr|ng")  # noqa: S106
    ended = place.release("--json")
    told = json.loads(ended.out)
    assert (ended.code, told["outcome"], told["release"]) == (2, "failed", None)
    assert ended.line.endswith(told["reason"])
    assert "HARBOR_PASSWORD" in told["reason"]
    assert summary.read_text().startswith("### failed: ")
    assert "wr|ng" not in ended.out + ended.err + summary.read_text()


def test_a_tag_that_exists_is_not_overwritten(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2024, 2, 29, 23, 59, 59, tzinfo=tz)  # in the shared registry no other test has it

    monkeypatch.setattr("pipeline.release.datetime", Stopped)
    names = []
    for number in range(2):
        place.change(str(number))
        names.append(place.released()["release"])
    assert names == ["2024-02-29-23-59-59", "2024-03-01-00-00-00"]


def test_a_wrong_password(place: Place) -> None:
    place.set(HARBOR_PASSWORD="wrong")  # noqa: S106
    place.fails(
        2, f"registry {place.registry.host}: it does not accept the account; check HARBOR_USERNAME and HARBOR_P"
    )


def test_half_an_account_and_none(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HARBOR_PASSWORD")
    place.fails(2, "HARBOR_USERNAME is set and HARBOR_PASSWORD is not; a robot account has both")
    monkeypatch.delenv("HARBOR_USERNAME")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    place.fails(2, f"registry {place.registry.host}: it wants an account; set HARBOR_USERNAME and HARBOR_PASSWORD")


def test_a_ca_that_the_engine_does_not_know(place: Place, tmp_path: Path) -> None:
    place.registry.distrust()
    place.fails(2, f"does not trust; put the CA's certificate to /etc/docker/certs.d/{place.registry.host}/ca.crt")
    make_certificates(tmp_path / "other", (place.registry.name,), 1)
    place.registry.trust(ca=tmp_path / "other" / "ca.pem")
    place.fails(2, "of a CA that the engine does not trust")


def test_a_certificate_that_has_expired(place: Place) -> None:
    with _expired(place.registry):
        place.fails(2, "its certificate has expired; its administrator must renew it")


def test_a_registry_that_is_away(place: Place) -> None:
    place.registry.stop()
    try:
        place.fails(1, f"registry {place.registry.host}: nothing listens there (connection refused)")
    finally:
        place.registry.start()


def test_a_name_that_nobody_knows(place: Place) -> None:
    place.set(DOCKER_REGISTRY="nowhere.invalid")
    add_commit(place.config, {"dev/cronjob.yaml": place.manifest("nowhere.invalid")}, "other")
    place.fails(1, "registry nowhere.invalid: ")


# Docker's library leaves the socket that it did not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
def test_no_engine(place: Place) -> None:
    place.set(DOCKER_HOST="unix:///nowhere/docker.sock")
    place.fails(1, "Docker Engine does not answer; start it, or name another by DOCKER_HOST")
    gc.collect()  # Here, where the warning is expected.


# Docker's library leaves the socket of a build that was refused at once to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
def test_a_dockerfile_that_fails_shows_its_last_lines(place: Place) -> None:
    place.write(Dockerfile_client="FROM scratch\nCOPY fl /fl\nCOPY none /none\n")
    ended = place.fails(1, "Dockerfile.client does not build, step 3 of 3: ")
    assert "Step 3/3 : COPY none /none" in ended.err
    place.write(Dockerfile_client="FORM scratch\n")
    place.fails(1, "Dockerfile.client does not build: ")
    gc.collect()  # Here, where the warning is expected.


@pytest.mark.slow
def test_a_connection_that_breaks_in_the_middle_of_a_push(place: Place) -> None:
    change(place.source, {"fl/large.bin": "x" * 200_000 + str(time.time())}, "large")
    (place.source / "fl" / "random.bin").write_bytes(os.urandom(3_000_000))
    change(place.source, {}, "large")
    cable = Cable(place.registry, 1_000_000)
    place.registry.trust(cable.port)
    try:
        place.set(DOCKER_REGISTRY=cable.host)
        add_commit(place.config, {"dev/cronjob.yaml": place.manifest(cable.host)}, "other")
        failed = place.fails(
            1, f"registry {cable.host}: the connection broke in the middle of the transfer; release again"
        )
        assert cable.dropped
        assert "MB so far (before compression); the registry broke off, and the engine tries again" in failed.err
        cable.mend()
        assert place.released()["outcome"] == "released"
    finally:
        place.registry.distrust(cable.port)
        cable.close()


@pytest.mark.slow
def test_a_registry_that_is_full(place: Place, tmp_path: Path) -> None:
    (place.source / "fl" / "random.bin").write_bytes(os.urandom(3_000_000))
    change(place.source, {}, "large")
    storage = place.registry.storage
    place.registry.stop()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(storage)], check=True)
    try:
        place.registry.start()
        place.fails(1, "most often it has no space left or is just starting; its log says why")
    finally:
        place.registry.stop()
        subprocess.run(["umount", str(storage)], check=True)
        place.registry.start()
    assert place.released()["outcome"] == "released"


@pytest.mark.ssh
def test_killed_between_push_and_bump_the_next_run_finishes(
    place: Place, ssh_server: SshServer, tmp_path: Path
) -> None:
    hook = place.config / "hooks" / "pre-receive"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/here\nwhile [ ! -e {tmp_path}/go ]; do sleep 0.1; done\nexit 1\n")
    hook.chmod(0o755)
    ssh_server.know()
    place.set(
        FLOPS_CONFIG_REPOSITORY=ssh_server.url(place.config),
        FLOPS_CONFIG_KEY=str(ssh_server.key),
        FLOPS_KNOWN_HOSTS=str(ssh_server.known_hosts),
    )
    command = [sys.executable, "-m", "fl.cli", "release", "--source", str(place.source)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as release:
        end = time.monotonic() + 120
        while not (tmp_path / "here").exists():
            assert release.poll() is None, release.stderr.read().decode()
            assert time.monotonic() < end
            time.sleep(0.1)
        release.send_signal(signal.SIGKILL)
        release.stderr.read()
    (tmp_path / "go").touch()
    hook.unlink()
    assert log(place.config) == ["first"]
    assert place.released()["outcome"] == "released"
    assert len(log(place.config)) == 2


@pytest.mark.ssh
def test_ten_releases_at_once_end_in_the_order_of_commits(
    place: Place, ssh_server: SshServer, tmp_path: Path
) -> None:
    state = Path(os.environ["XDG_STATE_HOME"])
    hook = place.config / "hooks" / "pre-receive"
    hook.write_text(f"#!/bin/sh\nwhile [ ! -e {tmp_path}/go ]; do sleep 0.1; done\n")
    hook.chmod(0o755)
    ssh_server.know()
    place.set(
        FLOPS_CONFIG_REPOSITORY=ssh_server.url(place.config),
        FLOPS_CONFIG_KEY=str(ssh_server.key),
        FLOPS_KNOWN_HOSTS=str(ssh_server.known_hosts),
    )
    commits = [place.change(str(number)) for number in range(10)]
    command = [sys.executable, "-m", "fl.cli", "release", "--json", "--source", str(place.source), "--commit"]

    def begin(commit: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*command, commit], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def under_way(count: int) -> None:
        end = time.monotonic() + 120
        while len(list(state.glob("flops/turns/*/*.*"))) < count:
            assert time.monotonic() < end
            time.sleep(0.1)

    # The oldest first, and no push before all have begun: one that had not would be superseded, rightly.
    started = [begin(commits[0])]
    under_way(1)
    started += [begin(commit) for commit in commits[1:]]
    under_way(10)
    (tmp_path / "go").touch()
    told = []
    for process in started:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        told.append(json.loads(out))
    assert [one["outcome"] for one in told] == ["released"] * 10
    deployed = [line for line in log(place.config, "%(trailers:key=Source-Commit,valueonly)") if line][::-1]
    assert deployed == commits
    assert len({one["images"]["server"]["image"] for one in told}) == 10


class _expired:  # noqa: N801 - reads as a word
    """The registry shows a certificate that has expired, signed by the same CA."""

    def __init__(self, registry: RegistryServer) -> None:
        self._registry = registry

    def __enter__(self) -> None:
        from datetime import timedelta

        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization

        tls = self._registry.tls
        self._kept = (tls / "server.pem").read_bytes()
        old = x509.load_pem_x509_certificates(self._kept)[0]
        ca = x509.load_pem_x509_certificate((tls / "ca.pem").read_bytes())
        key = serialization.load_pem_private_key((tls / "ca.key").read_bytes(), None)
        builder = (
            x509.CertificateBuilder()
            .subject_name(old.subject)
            .issuer_name(ca.subject)
            .public_key(old.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(days=2))
            .not_valid_after(datetime.now(UTC) - timedelta(days=1))
        )
        for extension in old.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        made = builder.sign(key, hashes.SHA256())
        self._show(made.public_bytes(serialization.Encoding.PEM))

    def __exit__(self, *_: object) -> None:
        self._show(self._kept)

    def _show(self, certificate: bytes) -> None:
        self._registry.stop()
        (self._registry.tls / "server.pem").write_bytes(certificate)
        self._registry.start()
