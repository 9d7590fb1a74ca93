"""Each precondition of a release, broken in turn: the line of it says the mend, and the others are still told."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

from pipeline import doctor
from tests.pipeline.registry_server import NAME, PASSWORD, TRUSTED, USER
from tests.pipeline.repositories import MANIFEST, add_commit, make_bare
from tests.pipeline.sources import make_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Ended
    from tests.pipeline.registry_server import RegistryServer
    from tests.pipeline.ssh_server import SshServer

ALL = (
    *("source", "engine", "disk", "base image", "build", "registry", "CA", "login", "push right"),
    *("deploy key", "known hosts", "config repository", "paths", "write right", "model registry", "runner"),
)


class Patient:
    """A place where everything is well, and what breaks it."""

    def __init__(
        self,
        folder: Path,
        registry: RegistryServer | None,
        ssh: SshServer,
        flops: Callable[..., Ended],
        patch: pytest.MonkeyPatch,
    ) -> None:
        self._flops, self._patch = flops, patch
        self.source = make_source(folder / "source")
        host = registry.host if registry else "registry.invalid:1"
        manifest = MANIFEST.replace("harbor.example.org", host)
        self.config = make_bare(folder / "config.git", {"dev/cronjob.yaml": manifest})
        ssh.know()
        self.set(
            DOCKER_REGISTRY=host,
            IMAGE_REPO="flops",
            HARBOR_USERNAME=USER,
            HARBOR_PASSWORD=PASSWORD,
            FLOPS_CONFIG_REPOSITORY=ssh.url(self.config),
            FLOPS_CONFIG_KEY=str(ssh.key),
            FLOPS_KNOWN_HOSTS=str(ssh.known_hosts),
            FLOPS_BASE_IMAGE=f"{host}/flops/base:none",
        )

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self._patch.setenv(name, value)

    def look(self) -> dict[str, tuple[str, str]]:
        ended = self._flops("doctor", "--source", self.source, "--json")
        checks: list[dict[str, Any]] = ended.json["checks"]
        assert tuple(check["what"] for check in checks) == ALL
        failed = [check["what"] for check in checks if check["result"] == "FAILED"]
        assert (ended.code, ended.json["passed"]) == ((1, False) if failed else (0, True))
        assert PASSWORD not in ended.out + ended.err
        return {check["what"]: (check["result"], check["found"]) for check in checks}

    def broken(self, what: str, mend: str, also: tuple[str, ...] = ("base image",)) -> dict[str, tuple[str, str]]:
        """Find one check failed, and no other but those that fail in this place anyhow."""
        found = self.look()
        assert {name for name, (result, _) in found.items() if result == "FAILED"} - set(also) == {what}
        assert mend in found[what][1]
        return found


@pytest.fixture
def no_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)


@pytest.mark.docker
@pytest.mark.registry
@pytest.mark.ssh
@pytest.mark.usefixtures("no_systemd")
class TestWithEverything:
    @pytest.fixture
    def patient(
        self,
        tmp_path: Path,
        registry: RegistryServer,
        ssh_server: SshServer,
        flops: Callable[..., Ended],
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[Patient]:
        yield Patient(tmp_path, registry, ssh_server, flops, monkeypatch)
        registry.trust()
        ssh_server.know()

    def test_where_all_is_well_every_line_says_what_was_found(self, patient: Patient) -> None:
        found = patient.look()
        failed = {name for name, (result, _) in found.items() if result == "FAILED"}
        assert failed == {"base image"}
        assert found["base image"][1].endswith("flops/base:none is neither here nor in its registry")
        assert found["push right"][1].startswith(f"may push to {NAME}:")
        assert found["write right"] == ("passed", "may push to branch main")
        assert found["paths"][1] == "dev/cronjob.yaml names none; dev/release.json: no release yet"
        assert found["build"] == ("passed", "network of the engine")
        assert found["model registry"][0] == "skipped"
        assert found["runner"] == ("skipped", "no systemd here to ask")

    def test_account(self, patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
        patient.set(HARBOR_PASSWORD="wrong")  # noqa: S106
        found = patient.broken("login", "check HARBOR_USERNAME and HARBOR_PASSWORD")
        assert found["push right"][0] == "skipped"
        monkeypatch.delenv("HARBOR_PASSWORD")
        patient.broken("login", "HARBOR_USERNAME is set and HARBOR_PASSWORD is not")

    def test_ca(self, patient: Patient, registry: RegistryServer) -> None:
        registry.distrust()
        found = patient.broken("CA", "put the CA's certificate to /etc/docker/certs.d/")
        assert found["registry"][0] == "passed"
        assert found["login"][0] == "skipped"

    def test_a_ca_by_another_files_name(self, patient: Patient, registry: RegistryServer) -> None:
        folder = TRUSTED / registry.host
        (folder / "ca.crt").rename(folder / "house.crt")
        found = patient.look()
        assert found["CA"] == ("passed", f"{folder}/house.crt")
        assert found["push right"][0] == "passed"
        (folder / "house.crt").unlink()

    def test_registry(self, patient: Patient, registry: RegistryServer) -> None:
        registry.stop()
        try:
            patient.broken("registry", "nothing listens there")
        finally:
            registry.start()

    def test_deploy_key(self, patient: Patient, ssh_server: SshServer) -> None:
        patient.set(FLOPS_CONFIG_KEY=str(ssh_server.host_key))
        found = patient.broken("deploy key", "the git server knows no key of ours")
        assert found["paths"][0] == "skipped"

    def test_what_is_not_used_is_not_praised(self, patient: Patient) -> None:
        patient.set(FLOPS_CONFIG_REPOSITORY=str(patient.config))
        found = patient.look()
        assert found["deploy key"] == found["known hosts"] == ("skipped", "no SSH leads to the config repository")
        assert found["write right"][0] == "passed"

    def test_write_right(self, patient: Patient, ssh_server: SshServer) -> None:
        patient.set(FLOPS_CONFIG_KEY=str(ssh_server.read_only_key))
        patient.broken("write right", "give it write access there")

    def test_known_hosts(self, patient: Patient, ssh_server: SshServer) -> None:
        ssh_server.known_hosts.write_text("")
        patient.broken("known hosts", "the git server's host key is not known")
        ssh_server.know(ssh_server.key)
        patient.broken("known hosts", "shows another host key than the known one")

    def test_config_repository(self, patient: Patient, tmp_path: Path, ssh_server: SshServer) -> None:
        patient.set(FLOPS_CONFIG_REPOSITORY=ssh_server.url(tmp_path / "none.git"))
        patient.broken("config repository", "there is no git repository")
        patient.set(FLOPS_CONFIG_REPOSITORY="ssh://git@127.0.0.1:1/config.git")
        patient.broken("config repository", "nothing listens there")

    def test_paths(self, patient: Patient) -> None:
        patient.set(FLOPS_ENVIRONMENT="prod")
        patient.broken("paths", "the config repository has no prod/cronjob.yaml; there is dev")
        patient.set(FLOPS_ENVIRONMENT="dev", FLOPS_CONTAINER="other")
        patient.broken("paths", "has no container named 'other'; there is global-server")

    def test_a_hold_is_told(self, patient: Patient) -> None:
        hold = '{"schema": 1, "reason": "bad rounds", "by": "octo", "since": "2026-01-01"}'
        add_commit(patient.config, {"dev/hold.json": hold}, "hold")
        assert patient.look()["paths"][1].endswith("dev/hold.json: held by octo: bad rounds")

    def test_build(self, patient: Patient, tmp_path: Path) -> None:
        patient.set(FLOPS_BUILD_NETWORK="nowhere")
        patient.broken("build", "build.network: the engine has no network 'nowhere'")
        patient.set(FLOPS_BUILD_NETWORK="none", FLOPS_WHEELS=str(tmp_path))
        patient.broken("build", f"build.wheels: {tmp_path} holds no wheels")

    def test_model_registry(self, patient: Patient) -> None:
        patient.set(MLFLOW_TRACKING_URI="http://127.0.0.1:1")
        patient.broken("model registry", "the config repository has no dev/federation.toml, which names the model")
        add_commit(patient.config, {"dev/federation.toml": 'task = "digits"\n'}, "federation")
        patient.broken("model registry", "the model registry of MLFLOW_TRACKING_URI does not answer")

    def test_a_path_that_speaks_of_keys_is_no_key(
        self, patient: Patient, tmp_path: Path, ssh_server: SshServer
    ) -> None:
        patient.set(FLOPS_CONFIG_REPOSITORY=ssh_server.url(tmp_path / "keycloak" / "none.git"))
        patient.broken("config repository", "there is no git repository")

    def test_disk(self, patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "_LEAST_FREE", 10**9)
        patient.broken("disk", "GB free, and 1000000000 are wanted; old releases go with docker image prune --all")

    def test_source(self, patient: Patient, tmp_path: Path) -> None:
        patient.source = tmp_path
        patient.broken("source", "is in no git repository; go to the source's folder")


# Docker's library leaves the socket that it did not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.ssh
@pytest.mark.usefixtures("no_systemd")
def test_no_engine(
    tmp_path: Path, ssh_server: SshServer, flops: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = Patient(tmp_path, None, ssh_server, flops, monkeypatch)
    patient.set(DOCKER_HOST="unix:///nowhere/docker.sock")
    found = patient.broken("engine", "start it, or name another by DOCKER_HOST", also=())
    assert found["login"][0] == "skipped"
    assert found["write right"][0] == "passed"
    gc.collect()  # Here, where the warning is expected.


@pytest.mark.parametrize(
    ("printed", "result", "said"),
    [
        ("actions.runner.o-r.h.service loaded active running Runner\n", "passed", "actions.runner.o-r.h.service"),
        (
            "actions.runner.o-r.h.service loaded failed failed Runner\n",
            "FAILED",
            "is failed; systemctl start actions.runner",
        ),
        (
            "actions.runner.disabled.service loaded active running Runner\n",
            "FAILED",
            "is disabled, and gone with",
        ),
        ("", "skipped", "a release by hand needs none, a runner does: ./svc.sh install"),
    ],
)
def test_the_runner_as_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str, result: str, said: str
) -> None:
    program = tmp_path / "systemctl"
    enabled = "case $2 in *.disabled.*) echo disabled; exit 1;; *) echo enabled; exit 0;; esac"
    program.write_text(f"#!/bin/sh\nif [ $1 = is-enabled ]; then {enabled}; fi\nprintf '{printed}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: str(program))
    found = doctor.check("runner", doctor._runner)
    assert found.result == result
    assert said in found.found
