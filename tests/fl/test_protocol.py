"""What server and client must agree on."""

import dataclasses

import pytest

from fl.protocol import (
    PROTOCOL,
    Contract,
    Release,
    contract_entries,
    disagreement,
    read_contract,
    schema_digest,
    this_contract,
    this_release,
)
from fl.tasks import find_task

SERVER = Contract(5, "digits", "s" * 64, "m" * 64, Release("1.2.0", "a" * 40, "sha256:" + "b" * 64))


def changed(**values):
    return dataclasses.replace(SERVER, **values)


def test_a_contract_survives_the_message():
    assert read_contract({"server-round": 3, **contract_entries(SERVER)}) == SERVER


@pytest.mark.parametrize("entries", [{}, {"contract.protocol": "many"}, {"protocol": 5}])
def test_entries_without_a_protocol_number_are_no_contract(entries):
    assert read_contract(entries) is None


@pytest.mark.parametrize("protocol", [4, 5, 6])
def test_neighbouring_protocols_understand_each_other(protocol):
    assert disagreement(SERVER, changed(protocol=protocol)) is None


@pytest.mark.parametrize(("protocol", "older"), [(3, "client"), (7, "server")])
def test_others_are_told_both_numbers_and_what_to_upgrade(protocol, older):
    client = changed(protocol=protocol, release=Release("1.0.0"))

    reason = disagreement(SERVER, client)

    assert reason == (
        f"the server speaks protocol 5 (release 1.2.0 (aaaaaaaaaaaa) (sha256:bbbbbbbbbbbb)), the client {protocol} "
        f"(release 1.0.0): upgrade the {older}"
    )


@pytest.mark.parametrize(
    ("other", "word"),
    [({"task": "tabular"}, "task"), ({"schema": "t" * 64}, "schema"), ({"signature": "n" * 64}, "signature")],
)
def test_another_task_schema_or_model_does_not_fit(other, word):
    assert word in disagreement(SERVER, changed(**other))


def test_a_signature_that_is_not_known_yet_is_not_compared():
    assert disagreement(SERVER, changed(signature="")) is None


def test_a_server_that_says_nothing_is_too_old():
    assert "upgrade the server" in disagreement(None, SERVER)


def test_the_release_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("FLOPS_COMMIT", "c" * 40)
    monkeypatch.setenv("FLOPS_IMAGE", f"harbor.example.org/flops/server:2026-01-31-14-05-09@sha256:{'d' * 64}")

    assert this_release() == Release(commit="c" * 40, image="sha256:" + "d" * 64)
    assert this_contract(find_task("digits")).protocol == PROTOCOL
    monkeypatch.setenv("FLOPS_IMAGE", "sha256:" + "d" * 64)
    assert this_release().image == "sha256:" + "d" * 64
    monkeypatch.setenv("FLOPS_IMAGE", "harbor.example.org/flops/server:none")
    assert this_release().image == ""


def test_schemas_differ_by_what_a_column_means():
    digits, breast = find_task("digits"), find_task("breast-cancer")
    column = dataclasses.replace(breast.schema.columns[0], max=1.0)
    narrower = dataclasses.replace(breast.schema, columns=(column, *breast.schema.columns[1:]))

    assert schema_digest(digits) == schema_digest(find_task("digits"))
    assert len({schema_digest(t) for t in (digits, breast, dataclasses.replace(breast, schema=narrower))}) == 3
