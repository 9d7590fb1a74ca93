"""A CA of one's own, and certificates from it that TLS accepts."""

import socket
import ssl
import threading

import pytest


def shake_hands(tls, name):
    """Return what a client that trusts the CA says to a server with the certificate."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tls / "server.pem", tls / "server.key")
    client = ssl.create_default_context(cafile=str(tls / "ca.pem"))
    ours, theirs = socket.socketpair()

    def serve():
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as secure:
            return secure.version()
    except ssl.SSLCertVerificationError as error:
        ours.close()
        return error.verify_message
    finally:
        thread.join(5)


def test_the_certificate_is_accepted_under_its_names_alone(flops, here):
    ended = flops("server", "certificate", "--host", "flops.example.org", "--host", "10.1.2.3", "--json")

    assert ended.json["ca"] == "tls/ca.pem"
    assert shake_hands(here / "tls", "flops.example.org").startswith("TLSv1.")
    assert shake_hands(here / "tls", "10.1.2.3").startswith("TLSv1.")
    assert "Hostname mismatch" in shake_hands(here / "tls", "other.example.org")


def test_made_again_it_comes_from_the_same_ca(flops, here):
    flops("server", "certificate", "--host", "a")
    before = {f.name: f.read_bytes() for f in (here / "tls").iterdir()}
    ended = flops("server", "certificate", "--host", "b")
    after = {f.name: f.read_bytes() for f in (here / "tls").iterdir()}

    assert ended.code == 0
    assert {name for name in before if before[name] != after[name]} == {"server.pem", "server.key"}
    assert shake_hands(here / "tls", "b").startswith("TLSv1.")


def test_keys_are_for_their_owner_alone(flops, here):
    flops("server", "certificate", "--host", "a")

    assert {f.name: oct(f.stat().st_mode & 0o777) for f in (here / "tls").iterdir()} == {
        "ca.pem": "0o644",
        "ca.key": "0o600",
        "server.pem": "0o644",
        "server.key": "0o600",
    }


@pytest.mark.parametrize("host", ["https://a", "a:8080", "a b", "", "a..b", "ü.example.org", "x" * 300])
def test_a_host_that_is_none_is_refused_and_nothing_is_written(flops, here, host):
    ended = flops("server", "certificate", "--host", host)

    assert ended.code == 2
    assert "neither a host name nor an IP address" in ended.line
    assert not (here / "tls").exists()


def test_half_a_ca_is_not_replaced(flops, here):
    flops("server", "certificate", "--host", "a")
    (here / "tls" / "ca.key").unlink()
    before = (here / "tls" / "ca.pem").read_bytes()

    ended = flops("server", "certificate", "--host", "a")

    assert ended.code == 2
    assert "must both be there" in ended.line
    assert (here / "tls" / "ca.pem").read_bytes() == before


def test_a_key_of_another_ca_is_noticed(flops, here):
    flops("server", "certificate", "--host", "a", "--out", "one")
    flops("server", "certificate", "--host", "a", "--out", "two")
    (here / "two" / "ca.key").replace(here / "one" / "ca.key")

    assert "is not the key of" in flops("server", "certificate", "--host", "a", "--out", "one").line


def test_a_folder_that_is_a_file_is_named(flops, here):
    (here / "tls").write_text("")

    assert flops("server", "certificate", "--host", "a").code == 2
