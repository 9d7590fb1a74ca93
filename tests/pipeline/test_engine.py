"""What the engine's and a registry's words are taken for."""

from __future__ import annotations

from typing import Any

import pytest

from fl.errors import SettingsError
from pipeline.engine import EngineRefused, RegistryRefused, TransferFailed, engine, explain, log_in
from pipeline.settings import Secrets


@pytest.mark.parametrize(
    ("words", "kind", "meaning"),
    [
        (
            "unauthorized: unauthorized to access repository: flops/server, action: push: unauthorized to access "
            "repository: flops/server, action: push",
            RegistryRefused,
            "the account may not do this in project 'flops'",
        ),
        (
            "unauthorized: project flops not found: project flops not found",
            RegistryRefused,
            "it has no project 'flops'; make it there",
        ),
        (
            "denied: adding 29.0 MiB of storage resource, which when updated to current usage of 152.4 MiB will "
            "exceed the configured upper limit of 10.0 MiB.",
            TransferFailed,
            "the quota of project 'flops' is used up",
        ),
        ("unauthorized: authentication required", RegistryRefused, "it does not accept the account"),
        (
            "x509: certificate has expired or is not yet valid: current time 2020-01-01T00:00:00Z is before 2026",
            RegistryRefused,
            "its certificate is not valid yet; is the clock",
        ),
        (
            "denied: The system is in read only mode. Any modification is prohibited.",
            TransferFailed,
            "it is in read-on",
        ),
        (
            "x509: certificate is valid for other.test, not harbor.example.org",
            RegistryRefused,
            "its certificate is for another name; name it as the certificate does",
        ),
        ("received unexpected HTTP status: 507 Insufficient Storage", TransferFailed, "it failed inside (received"),
        ("something new", TransferFailed, "something new"),
    ],
)
def test_what_harbor_says(words: str, kind: type[Exception], meaning: str) -> None:
    found = explain(words, "harbor.example.org", "flops", logged_in=False)
    assert type(found) is kind
    assert str(found).startswith(f"registry harbor.example.org: {meaning}")


def test_a_refused_login_is_about_the_account_whatever_it_is_called() -> None:
    class Client:
        class api:  # noqa: N801 - the library calls it so
            @staticmethod
            def login(**_: object) -> None:
                raise EngineRefused("login", explanation="denied: access forbidden")

    client: Any = Client()
    with pytest.raises(RegistryRefused, match="does not accept the account; check HARBOR_USERNAME"):
        log_in(client, "harbor.example.org", Secrets("robot", "wrong"))


@pytest.mark.parametrize("address", ["nonsense", "tcp://x:y:z"])
def test_an_address_that_is_none_of_an_engine(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(SettingsError, match="DOCKER_HOST is no engine's address"), engine():
        pass
