"""Node keys: how a hospital proves who it is.

A key is an ECDSA key on the curve P-384, the one that Flower's node authentication uses. The private key is a file
in OpenSSH's format and stays at the hospital; the public key is one OpenSSH line, which the federation puts on its
allow-list.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
import stat
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fl.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

ALGORITHM = "ecdsa-sha2-nistp384"
"""OpenSSH's word for the only kind of key in use."""

NAME_LIMIT = 80
"""A hospital's name has at most this many characters."""

_SIZE_LIMIT = 64 * 1024
"""No key file is larger, in bytes; whatever is was named by mistake."""

_MAKE = "flops client keygen makes a pair"


def generate() -> ec.EllipticCurvePrivateKey:
    """Make a new private key."""
    return ec.generate_private_key(ec.SECP384R1())


def identity(public: ec.EllipticCurvePublicKey) -> bytes:
    """Return the key as Flower knows a node by it: PEM of its SubjectPublicKeyInfo."""
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_line(public: ec.EllipticCurvePublicKey, name: str) -> str:
    """Return the key as one OpenSSH line, without a line end: algorithm, base64, name."""
    return f"{_openssh(public)} {name}"


def fingerprint(public: ec.EllipticCurvePublicKey) -> str:
    """Return ``SHA256:…`` as `ssh-keygen -lf` prints it, to be compared by telephone."""
    digest = hashlib.sha256(base64.b64decode(_openssh(public).split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def name_problem(name: str) -> str | None:
    """Tell in a few words why a name cannot be a hospital's; None where it can.

    What is allowed can be a file's name and a part of a metric's name in the registry as it is.
    """
    if not name or len(name) > NAME_LIMIT:
        return f"a name has 1 to {NAME_LIMIT} characters, got {len(name)}"
    wrong = next((c for c in name if not (c.isalnum() or c in " -_.")), None)
    if wrong is not None:
        return f"{wrong!r} is not allowed in a name; use letters, digits, spaces and -_."
    if not name[0].isalnum() or name[-1] in " .":
        return "a name begins with a letter or digit and does not end with a space or dot"
    return None


def write_pair(
    key: ec.EllipticCurvePrivateKey, private: Path, public: Path, *, name: str, overwrite: bool = False
) -> None:
    """Write a key's two files; a folder that is missing is made, for its owner alone.

    Args:
        key: the private key.
        private: its file, mode 0600.
        public: the public key's file, mode 0644.
        name: what stands at the end of the public key's line.
        overwrite: replace files that are there already.

    Raises:
        SettingsError: the name cannot be used, a file is there already, or the folder cannot be written.
    """
    problem = name_problem(name)
    if problem is not None:
        raise SettingsError(f"name {name!r}: {problem}")
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    files = {private: (secret, 0o600), public: (f"{public_line(key.public_key(), name)}\n".encode(), 0o644)}
    drafts = {path: path.with_name(f".{path.name}.{secrets.token_hex(4)}") for path in files}
    reserved: list[Path] = []
    path = private
    try:
        for path in files:
            if path.parent.is_file():
                raise NotADirectoryError(None, "its folder is a file")
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(None, "a folder has this name")
            if not overwrite:  # The empty file makes the name ours, also against another process.
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                reserved.append(path)
        for path, (content, mode) in files.items():
            _write_new(drafts[path], content, mode)
        for path, draft in drafts.items():
            draft.replace(path)
        reserved.clear()
    except FileExistsError as error:
        raise SettingsError(
            f"key {path}: exists already and is kept; choose another folder, or replace it with --force"
        ) from error
    except OSError as error:
        raise SettingsError(f"key {path}: cannot be written: {error.strerror or error}") from error
    finally:
        for leftover in (*reserved, *drafts.values()):
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)


def read_private(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a private key, PEM or OpenSSH's format.

    That a group may read the file is fine: Kubernetes mounts secrets so, owned by root.

    Raises:
        SettingsError: the file is missing, others can read or change it, or it holds no private key of the right
            kind without a passphrase.
    """
    data = _read(path)
    if b"PUBLIC KEY-----" in data or data.lstrip().startswith((b"ecdsa-", b"ssh-")):
        raise SettingsError(f"key {path}: this is a public key; name the private key's file instead")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(
            f"key {path}: others than its owner can read or change it (mode {mode:04o}); run chmod 600 {path}, or in "
            "Kubernetes set the volume's defaultMode to 0440"
        )
    openssh = b"BEGIN OPENSSH PRIVATE KEY" in data
    load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    try:
        key: PrivateKeyTypes = load(data, None)
    except TypeError as error:  # What cryptography raises where a passphrase is needed and none is given.
        raise SettingsError(
            f"key {path}: it has a passphrase, and a node starts unattended; remove it with ssh-keygen -p -f {path}"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"key {path}: not a private key in PEM or OpenSSH's format; {_MAKE}") from error
    if not (isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1)):
        raise SettingsError(f"key {path}: {_kind(key)}, but ECDSA on P-384 is needed; {_MAKE}")
    return key


def read_public(path: Path) -> ec.EllipticCurvePublicKey:
    """Read a public key, one OpenSSH line or PEM.

    Raises:
        SettingsError: the file is missing, holds a private key, several keys, or no key of the right kind.
    """
    data = _read(path).removeprefix(b"\xef\xbb\xbf")
    if b"PRIVATE KEY" in data:
        raise SettingsError(
            f"key {path}: THIS IS A PRIVATE KEY and must not be here: delete the file everywhere it was copied to, "
            "make a new pair with flops client keygen --force, and hand on the new .pub file alone"
        )
    lines = [line for line in data.splitlines() if line.strip() and not line.startswith(b"#")]
    pem = data.count(b"-----BEGIN")
    if pem > 1 or (not pem and len(lines) > 1):
        raise SettingsError(f"key {path}: holds {pem or len(lines)} keys or lines; one public key a file is needed")
    try:
        key: PublicKeyTypes = (
            serialization.load_pem_public_key(data)
            if pem
            else serialization.load_ssh_public_key(lines[0].strip() if lines else b"")
        )
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            f"key {path}: not a public key; one line '{ALGORITHM} AAAA… NAME' is needed; {_MAKE}"
        ) from error
    # A certificate of OpenSSH's holds a key too, but its conditions would go unread.
    right = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
    if not right or not (pem or lines[0].split()[0] == ALGORITHM.encode()):
        kind = _kind(key) if not right else "this is an OpenSSH certificate"
        raise SettingsError(f"key {path}: {kind}, but ECDSA on P-384 ({ALGORITHM}) is needed; {_MAKE}")
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 - for mypy; looked at above
    return key


def _openssh(public: ec.EllipticCurvePublicKey) -> str:
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _kind(key: PrivateKeyTypes | PublicKeyTypes) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return f"the key is ECDSA on {key.curve.name}"
    # The class's name says which kind: RSAPublicKey, Ed25519PrivateKey, …
    return f"the key is {type(key).__name__.removesuffix('Key').removesuffix('Public').removesuffix('Private')}"


def _read(path: Path) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise SettingsError(f"key {path}: not a file; name the key's own file")
        if found.st_size > _SIZE_LIMIT:
            raise SettingsError(f"key {path}: {found.st_size} bytes are no key; name the key's own file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SettingsError(f"key {path}: there is no such file; {_MAKE}") from error
    except OSError as error:
        raise SettingsError(f"key {path}: cannot be read: {error.strerror or error}") from error


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that is not there yet and have it on the disk before the call returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
