"""How many versions a release has made, asked of a real MLflow server."""

from __future__ import annotations

import shlex
import ssl
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from fl.errors import FlopsError, SettingsError
from fl.model import initial_state
from fl.tasks import find_task
from pipeline import model_registry
from pipeline.model_registry import count_versions, model_name
from pipeline.record import read_release
from server.certificates import CA_CERTIFICATE, CERTIFICATE, KEY, make_certificates
from server.registry import Registry
from tests.images.federation import Tracker
from tests.pipeline.http_server import Answers, served
from tests.pipeline.test_commands import recorded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Ended

RECORD = read_release(recorded(2)["dev/release.json"].encode(), "dev/release.json")
DIGEST = RECORD.images["server"].digest


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    made = Tracker(tmp_path, "127.0.0.1")
    made.wait()
    yield made
    made.stop()


@pytest.mark.slow
def test_versions_that_a_release_made_are_counted_and_required(
    tracker: Tracker, flops: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = find_task("digits")
    registry = Registry(tracker.uri)
    assert count_versions(tracker.uri, "flops-digits", RECORD, {}) == 0
    for tags in (
        {"commit": RECORD.commit, "image": ""},
        {"commit": RECORD.commit, "image": DIGEST},
        {"commit": "another", "image": DIGEST},  # The image is what ran.
        {"commit": RECORD.commit, "image": f"sha256:{'9' * 64}"},
        {"commit": "another", "image": ""},
    ):
        with registry.run("test", {}) as log:
            registry.register(log, "flops-digits", task, initial_state(task, 0), tags)
    assert count_versions(f"{tracker.uri}/", "flops-digits", RECORD, {}) == 3
    assert count_versions(tracker.uri, "flops-other", RECORD, {}) == 0

    from tests.pipeline.repositories import MANIFEST, REGISTRY, log, make_bare

    files = {**recorded(2), "dev/federation.toml": 'task = "digits"\n', "prod/cronjob.yaml": MANIFEST}
    config = make_bare(tmp_path / "config.git", files)
    for name, value in {
        "DOCKER_REGISTRY": REGISTRY,
        "IMAGE_REPO": "flops",
        "FLOPS_CONFIG_REPOSITORY": str(config),
        "MLFLOW_TRACKING_URI": tracker.uri,
    }.items():
        monkeypatch.setenv(name, value)
    ended = flops("promote", "dev", "prod", "--require-rounds", "4")
    assert (ended.code, ended.line) == (
        1,
        "release 2026-01-02-00-00-00 has registered 3 versions of flops-digits in dev, and 4 are required; wait for "
        "more rounds",
    )
    assert len(log(config)) == 1
    assert flops("promote", "dev", "prod", "--require-rounds", "3").code == 0
    assert len(log(config)) == 2


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "mlflow.example.org"])
def test_only_a_server_can_be_asked(uri: str) -> None:
    with pytest.raises(SettingsError, match="the address of an MLflow server is needed"):
        count_versions(uri, "flops-digits", RECORD, {})


def test_a_server_that_does_not_answer() -> None:
    with pytest.raises(FlopsError, match="does not answer; is it running") as caught:
        count_versions("http://user:s3cret@127.0.0.1:1", "flops-digits", RECORD, {})
    assert "s3cret" not in str(caught.value)


def test_the_ca_that_is_named_counts_whatever_else_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("ours", "other"):
        make_certificates(tmp_path / folder, ("localhost",), 1)
    ours, other = (str(tmp_path / folder / CA_CERTIFICATE) for folder in ("ours", "other"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", other)  # As a machine has it that trusts a proxy's CA.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ours" / CERTIFICATE, tmp_path / "ours" / KEY)
    with served(Answers, context) as port:
        uri = f"https://localhost:{port}"
        assert count_versions(uri, "flops-digits", RECORD, {model_registry.CA_VARIABLE: ours}) == 0
        for variables in ({}, {model_registry.CA_VARIABLE: other}):
            with pytest.raises(FlopsError, match="certificate is not trusted here; where its CA is the house's"):
                count_versions(uri, "flops-digits", RECORD, variables)
    with pytest.raises(SettingsError, match="CERT_PATH: /nowhere: no such file"):
        count_versions(uri, "flops-digits", RECORD, {model_registry.CA_VARIABLE: "/nowhere"})


def test_a_server_that_speaks_no_tls_or_lets_nobody_in() -> None:
    class Closed(Answers):
        def do_GET(self) -> None:  # noqa: N802 - the library calls it so
            self.send_error(403)

    with served(Closed) as port:
        for scheme, message in (("https", "speaks no TLS"), ("http", "as MLflow does: HTTP status 403")):
            with pytest.raises(FlopsError, match=message):
                count_versions(f"{scheme}://127.0.0.1:{port}", "flops-digits", RECORD, {})


@pytest.mark.parametrize(
    ("content", "name"),
    [(b'task = "digits"', "flops-digits"), (b'task = "a.b:c"', "flops-a-b-c"), (b'task = "x"\nmodel = "m"', "m")],
)
def test_the_federations_file_names_the_model(content: bytes, name: str) -> None:
    assert model_name(content, "dev/federation.toml") == name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"the config repository has no dev/federation\.toml"),
        (b"[", r"dev/federation\.toml: is not TOML"),
        (b"", r"dev/federation\.toml: names no task"),
    ],
)
def test_a_federations_file_that_does_not(content: bytes | None, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        model_name(content, "dev/federation.toml")


@pytest.mark.slow
def test_a_rollback_takes_the_model_back_too(
    tracker: Tracker, flops: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.pipeline.repositories import REGISTRY, add_commit, log, make_bare

    files = {**recorded(2), "dev/federation.toml": 'task = "digits"\n'}
    config = make_bare(tmp_path / "config.git", recorded(1))
    add_commit(config, files, "second")
    for name, value in {
        "DOCKER_REGISTRY": REGISTRY,
        "IMAGE_REPO": "flops",
        "FLOPS_CONFIG_REPOSITORY": str(config),
    }.items():
        monkeypatch.setenv(name, value)
    words = ("rollback", "dev", "--with-model", "--reason", "wrong labels")
    assert flops(*words).line == "--with-model asks the model registry; set MLFLOW_TRACKING_URI"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert "does not answer; is it running" in flops(*words).line
    assert len(log(config)) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    first = read_release(recorded(1)["dev/release.json"].encode(), "dev/release.json")
    registry, task = Registry(tracker.uri), find_task("digits")
    for record in (first, first, RECORD, RECORD):
        tags = {"commit": record.commit}
        with registry.run("test", {}) as run:
            made = registry.register(run, "flops-digits", task, initial_state(task, 0), tags)
        registry.move_alias(made, "champion", made.version - 1)
    told = flops(*words, "--json").json
    assert (told["release"], told["model_version"], told["taken_back"]) == (first.release, 2, [3, 4])
    champion, newest = registry.aliased("flops-digits", "champion"), registry.latest("flops-digits")
    assert champion is not None
    assert newest is not None
    assert (champion.version, newest.version) == (2, 2)
    assert registry.find("flops-digits", 4).tags["abandoned"] == "wrong labels"

    def another_moves(seconds: float) -> None:
        registry.move_alias(registry.find("flops-digits", 4), "champion", 2)

    again = ("rollback", "dev", "--to", first.release, "--with-model", "--reason", "wrong labels")
    with monkeypatch.context() as patch:
        patch.setattr(model_registry, "time", SimpleNamespace(sleep=another_moves))
        ended = flops(*again)
    assert ended.code == 1
    assert "somebody else let champion name version 4 of flops-digits meanwhile" in ended.line
    told = ended.line.partition("this does it later: flops ")[2]
    assert tuple(shlex.split(told)) == ("rollback", "dev", "--to", first.release, *again[4:])
    assert flops(*shlex.split(told), "--json").json["model_version"] == 2
