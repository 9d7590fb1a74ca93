import stat

import pytest

from fl import keys


def test_makes_a_pair_and_says_what_to_do_with_it(flops, here):
    ended = flops("client", "keygen", "--name", "St Mary")

    private, public = here / "flops-client" / "node.key", here / "flops-client" / "St Mary.pub"
    assert ended.code == 0
    assert keys.read_private(private).public_key() == keys.read_public(public)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert ended.out.startswith(public.read_text())
    assert keys.fingerprint(keys.read_public(public)) in ended.out
    assert "flops-client/St Mary.pub: send this file to the federation" in ended.out
    assert "flops-client/node.key: never leaves this hospital" in ended.out
    assert "PRIVATE KEY" not in ended.out


def test_the_folder_is_the_one_asked_for_or_the_nodes(flops, here, monkeypatch):
    monkeypatch.setenv("FLOPS_CLIENT_HOME", str(here / "home"))

    told = flops("client", "keygen", "--json").json
    assert told["private_key"] == str(here / "home" / "node.key")
    assert told["public_key"] == str(here / "home" / "hospital.pub")
    assert told["line"] + "\n" == (here / "home" / "hospital.pub").read_text()
    assert told["fingerprint"] == keys.fingerprint(keys.read_public(here / "home" / "hospital.pub"))

    assert flops("client", "keygen", "--out", here / "other").code == 0
    assert (here / "other" / "node.key").exists()


def test_a_key_is_replaced_only_when_asked(flops, here):
    flops("client", "keygen")
    key = here / "flops-client" / "node.key"
    before = key.read_bytes()

    ended = flops("client", "keygen", "--name", "other")
    assert ended.code == 2
    assert "node.key: exists already and is kept" in ended.line
    assert "--force" in ended.line
    assert key.read_bytes() == before
    assert not (here / "flops-client" / "other.pub").exists()

    assert flops("client", "keygen", "--force").code == 0
    assert key.read_bytes() != before
    assert keys.read_private(key).public_key() == keys.read_public(here / "flops-client" / "hospital.pub")


@pytest.mark.parametrize("name", ["../north", "a/b", "", "-x", "a\nb", "x" * 81])
def test_a_name_that_cannot_be_used_makes_nothing(flops, here, name):
    ended = flops("client", "keygen", f"--name={name}")

    assert ended.code == 2
    assert "name" in ended.line
    assert list(here.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(flops, here):
    (here / "file").write_text("")

    ended = flops("client", "keygen", "--out", "file")
    assert ended.code == 2
    assert "file/node.key: cannot be written: its folder is a file" in ended.line
    assert (here / "file").read_text() == ""


def test_help_has_an_example(flops):
    ended = flops("client", "keygen", "--help")

    assert "Example: flops client keygen" in ended.out
    assert "--json" in ended.out


def test_an_older_keys_public_part_is_told_of(flops, here):
    flops("client", "keygen", "--name", "St Mary")
    ended = flops("client", "keygen", "--name", "Other", "--force")

    assert ended.code == 0
    assert "St Mary.pub is not this key's; remove it" in ended.err
    assert "St Mary" not in ended.out


def test_an_empty_path_is_a_mistake(flops, here):
    ended = flops("client", "keygen", "--out", "")

    assert ended.code == 2
    assert "the path is empty" in ended.line
    assert list(here.iterdir()) == []
