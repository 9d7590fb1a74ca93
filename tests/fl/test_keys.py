import os
import shutil
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from fl import keys
from fl.errors import SettingsError

LINE = (
    "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBDgrreSyB0Bn8Tj2AcqMq544iRvz3zchwzgq"
    "lRxGH+XmHguyxh5UwT3Hw4/H6gXZhMkor01TPhAh2HnOb+7YAqqda7g7Eap432MC0fK4e87bPnw0vXk6pKioPDdXGixHtg=="
)
"""A key of OpenSSH's own making, with what ssh-keygen -lf printed for it."""
PRINT = "SHA256:0cCCXTUuEKsNkKcSpApNXdCQRA11fqbq8E4ZoyZ5QwM"

RSA = rsa.generate_private_key(65537, 2048)

FORMATS = {"PKCS8": s.PrivateFormat.PKCS8, "SEC1": s.PrivateFormat.TraditionalOpenSSL, "SSH": s.PrivateFormat.OpenSSH}

needs_ssh_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


@pytest.fixture
def key():
    return keys.generate()


def pem(key, form=s.PrivateFormat.PKCS8, secret=None):
    encryption = s.BestAvailableEncryption(secret) if secret else s.NoEncryption()
    return key.private_bytes(s.Encoding.PEM, form, encryption)


def public_pem(public):
    return public.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)


def name_of(value):
    """Name a parameter: keys are made anew in each process, and test names must be the same in all of them."""
    return value if isinstance(value, str) else "content"


def put(path, content, mode=0o600):
    path.write_bytes(content)
    path.chmod(mode)
    return path


def pair(folder, key, **options):
    private, public = folder / "node.key", folder / "north.pub"
    keys.write_pair(key, private, public, name="north", **options)
    return private, public


def test_a_written_pair_reads_back(tmp_path, key):
    private, public = pair(tmp_path / "new" / "folder", key)

    assert keys.read_private(private).private_numbers() == key.private_numbers()
    assert keys.read_public(public) == key.public_key()
    assert public.read_text() == keys.public_line(key.public_key(), "north") + "\n"
    assert sorted(path.name for path in private.parent.iterdir()) == ["node.key", "north.pub"]


def test_the_private_key_is_for_its_owner_alone(tmp_path, key):
    before = os.umask(0)
    try:
        private, _ = pair(tmp_path / "new", key)
    finally:
        os.umask(before)

    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("there", ["node.key", "north.pub"])
def test_nothing_that_is_there_is_replaced_unasked(tmp_path, key, there):
    (tmp_path / there).write_text("mine")

    with pytest.raises(SettingsError, match=rf"{there}: exists already.*--force"):
        pair(tmp_path, key)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_a_pair_is_replaced_when_asked(tmp_path, key):
    pair(tmp_path, keys.generate())
    private, public = pair(tmp_path, key, overwrite=True)

    assert keys.read_private(private).private_numbers() == key.private_numbers()
    assert keys.read_public(public) == key.public_key()
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


def test_a_failed_write_leaves_nothing_behind(tmp_path, key, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(SettingsError, match=r"cannot be written: No space left"):
        pair(tmp_path, key)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_named(tmp_path, key):
    (tmp_path / "north.pub").mkdir()

    with pytest.raises(SettingsError, match=r"north\.pub: cannot be written: a folder has this name"):
        pair(tmp_path, key, overwrite=True)
    assert not (tmp_path / "node.key").exists()


@pytest.mark.parametrize("form", FORMATS)
def test_reads_private_keys_of_other_makers(tmp_path, key, form):
    path = put(tmp_path / "key", pem(key, FORMATS[form]))

    assert keys.read_private(path).private_numbers() == key.private_numbers()


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_a_group_may_read_a_private_key(tmp_path, key, mode):
    assert keys.read_private(put(tmp_path / "key", pem(key), mode))


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o620, 0o660, 0o602])
def test_a_private_key_open_to_others_is_refused(tmp_path, key, mode):
    path = put(tmp_path / "key", pem(key), mode)

    with pytest.raises(SettingsError, match=rf"mode {mode:04o}.*chmod 600 {path}.*defaultMode to 0440"):
        keys.read_private(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a private key"),
        (b"hello", "not a private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a private key"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "not a private key"),
        (pem(keys.generate(), secret=b"secret"), "has a passphrase.*ssh-keygen -p -f"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "ECDSA on secp256r1, but ECDSA on P-384 is needed"),
        (pem(RSA), "the key is RSA, but"),
        (pem(ed25519.Ed25519PrivateKey.generate(), s.PrivateFormat.OpenSSH), "the key is Ed25519, but"),
        (f"{LINE} north\n".encode(), "this is a public key"),
        (public_pem(keys.generate().public_key()), "this is a public key"),
        (b"x" * 100_000, "100000 bytes are no key"),
    ],
    ids=name_of,
)
def test_what_is_no_private_key_is_said(tmp_path, content, said):
    path = put(tmp_path / "key", content)

    with pytest.raises(SettingsError, match=said) as raised:
        keys.read_private(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@needs_ssh_keygen
def test_a_passphrase_of_openssh_is_noticed(tmp_path):
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "secret", "-f", path], check=True)

    with pytest.raises(SettingsError, match="has a passphrase"):
        keys.read_private(path)


@pytest.mark.parametrize("read", [keys.read_private, keys.read_public])
def test_a_missing_file_and_a_folder_are_named(tmp_path, read):
    with pytest.raises(SettingsError, match=r"gone: there is no such file; flops client keygen"):
        read(tmp_path / "gone")
    with pytest.raises(SettingsError, match="not a file"):
        read(tmp_path)


@pytest.mark.parametrize("around", ["{}", "{} north\n", "# north\n\n{} north\r\n", "\ufeff{} north of the river"])
def test_reads_public_lines_as_they_are_mailed(tmp_path, around):
    path = put(tmp_path / "north.pub", around.format(LINE).encode())

    assert keys.fingerprint(keys.read_public(path)) == PRINT


def test_reads_a_public_key_in_pem(tmp_path, key):
    assert keys.read_public(put(tmp_path / "north.pub", public_pem(key.public_key()))) == key.public_key()


def openssh(public):
    return public.public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a public key"),
        (b"hello world", "not a public key"),
        (LINE.encode()[:-20], "not a public key"),
        (f"no-pty {LINE}".encode(), "not a public key"),
        (f"{LINE}\n{LINE}\n".encode(), "holds 2 keys"),
        (public_pem(keys.generate().public_key()) * 2, "holds 2 keys"),
        (openssh(ec.generate_private_key(ec.SECP521R1()).public_key()), "ECDSA on secp521r1, but"),
        (openssh(ed25519.Ed25519PrivateKey.generate().public_key()), "the key is Ed25519, but"),
        (public_pem(RSA.public_key()), "the key is RSA, but"),
        (pem(keys.generate()), "THIS IS A PRIVATE KEY"),
        (pem(keys.generate(), s.PrivateFormat.OpenSSH), "THIS IS A PRIVATE KEY.*keygen --force"),
    ],
    ids=name_of,
)
def test_what_is_no_public_key_is_said(tmp_path, content, said):
    path = put(tmp_path / "north.pub", content)

    with pytest.raises(SettingsError, match=said) as raised:
        keys.read_public(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@needs_ssh_keygen
def test_a_certificate_is_no_key(tmp_path, key):
    pair(tmp_path, key)
    command = ["ssh-keygen", "-q", "-s", "node.key", "-I", "x", "-n", "x", "north.pub"]
    subprocess.run(command, check=True, cwd=tmp_path)

    with pytest.raises(SettingsError, match="certificate"):
        keys.read_public(tmp_path / "north-cert.pub")


@needs_ssh_keygen
def test_openssh_agrees_on_fingerprint_and_key(tmp_path, key):
    private, public = pair(tmp_path, key)

    def said(*options):
        return subprocess.run(["ssh-keygen", *options], capture_output=True, text=True, check=True).stdout

    assert said("-lf", public).split()[1] == keys.fingerprint(key.public_key())
    assert said("-yf", private).split()[:2] == public.read_text().split()[:2]


def test_the_identity_is_the_one_that_flower_sends(key):
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    assert keys.identity(key.public_key()) == public_key_to_bytes(key.public_key())


@pytest.mark.parametrize("name", ["north", "St Mary", "a.b-c_d", "Universitätsklinik 2", "x" * 80])
def test_names_that_can_be_used(name):
    assert keys.name_problem(name) is None


@pytest.mark.parametrize(
    "name", ["", "x" * 81, "a/b", "a\nb", "../north", "-north", ".north", " north", "north ", "north.", "a:b", "a'b"]
)
def test_names_that_cannot(tmp_path, key, name):
    assert keys.name_problem(name)
    with pytest.raises(SettingsError, match="name"):
        keys.write_pair(key, tmp_path / "node.key", tmp_path / "x.pub", name=name)
    assert list(tmp_path.iterdir()) == []
