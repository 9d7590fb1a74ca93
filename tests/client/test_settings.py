"""A node's options."""

from pathlib import Path

import pytest

from client.settings import parse_address, read_ca, settle_client
from fl.errors import SettingsError

GIVEN = {
    "server": "flops.example.org",
    "task": "digits",
    "data": Path("d.npz"),
    "schema": None,
    "ca": None,
    "policy": None,
    "key": None,
    "home": Path("home"),
    "plain_text": False,
}


@pytest.mark.parametrize(
    ("text", "address"),
    [("a.example.org", "a.example.org:8080"), ("a:1", "a:1"), ("10.0.0.1:99", "10.0.0.1:99"), ("[::1]:8", "[::1]:8")],
)
def test_an_address_gets_the_default_port(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["https://a:1", "a:b", "a:0", "a:65536", "a/b", "", "::1", "a b"])
def test_an_address_that_is_none_is_refused(text):
    with pytest.raises(SettingsError, match="write HOST or HOST:PORT"):
        parse_address(text)


def test_the_key_is_in_the_nodes_folder():
    assert settle_client(GIVEN).key == Path("home/node.key")
    assert settle_client({**GIVEN, "key": Path("k")}).key == Path("k")


@pytest.mark.parametrize("name", ["server", "task", "data"])
def test_what_is_missing_is_named_with_its_variable(name):
    with pytest.raises(SettingsError, match=f"--{name} is missing; give it, or set FLOPS_{name.upper()}"):
        settle_client({**GIVEN, name: None})


def test_plain_text_stays_on_this_machine():
    assert settle_client({**GIVEN, "server": "127.0.0.1:1", "plain_text": True}).plain_text
    with pytest.raises(SettingsError, match="is another machine"):
        settle_client({**GIVEN, "plain_text": True})
    with pytest.raises(SettingsError, match="exclude each other"):
        settle_client({**GIVEN, "server": "localhost", "plain_text": True, "ca": Path("ca")})


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xff", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"]
)
def test_a_ca_file_without_a_certificate_is_refused(tmp_path, content):
    path = tmp_path / "ca.pem"
    path.write_bytes(content)

    with pytest.raises(SettingsError, match=r"ca\.pem: no certificate in PEM format"):
        read_ca(path)


def test_a_ca_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_ca(tmp_path / "none.pem")
    assert read_ca(None) is None
