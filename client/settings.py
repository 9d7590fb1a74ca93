"""What a hospital's node is told: by options, or by the environment in a container."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from fl.commands.params import FilePath
from fl.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cryptography.x509 import Certificate

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Hosts that plain text is allowed to."""

DEFAULT_PORT = 8080

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


@dataclass(frozen=True)
class ClientSettings:
    """A node's settings, checked.

    Attributes:
        server: the global server, ``host:port``.
        task: the task's name.
        data: the hospital's examples.
        schema: for the task ``tabular``, the schema file.
        home: the folder of what the node keeps: key, receipts, state.
        key: the private key.
        ca: certificates, PEM, of which one must have signed the server's; None for the system's.
        policy: the policy file; None allows everything.
        plain_text: no TLS; on loopback only.
    """

    server: str
    task: str
    data: Path
    schema: Path | None
    home: Path
    key: Path
    ca: Path | None
    policy: Path | None
    plain_text: bool = False


def node_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a node to a command; `settle_client` checks them."""
    path = FilePath(readable=False)  # What cannot be read is a row of check's table.
    for option in reversed(
        (
            click.option(
                "--server",
                envvar="FLOPS_SERVER",
                metavar="HOST:PORT",
                help="Needed: the global server.",
                show_envvar=True,
            ),
            click.option(
                "--task", envvar="FLOPS_TASK", metavar="TASK", help="Needed: the federation's task.", show_envvar=True
            ),
            click.option(
                "--data",
                envvar="FLOPS_DATA",
                type=path,
                metavar="FILE",
                help="Needed: this hospital's examples, CSV, Parquet or NPZ.",
                show_envvar=True,
            ),
            click.option(
                "--schema",
                envvar="FLOPS_SCHEMA",
                type=path,
                metavar="FILE",
                help="The federation's schema file, for the task 'tabular'.",
                show_envvar=True,
            ),
            click.option(
                "--ca",
                envvar="FLOPS_CA",
                type=path,
                metavar="FILE",
                help="The federation's CA certificate, PEM; default: the system's.",
                show_envvar=True,
            ),
            click.option(
                "--policy",
                envvar="FLOPS_POLICY",
                type=path,
                metavar="FILE",
                help="What this hospital takes part in; default: everything.",
                show_envvar=True,
            ),
            click.option(
                "--key",
                envvar="FLOPS_KEY",
                type=path,
                metavar="FILE",
                help="The private key; default: node.key in the node's folder.",
                show_envvar=True,
            ),
            click.option(
                "--home",
                envvar="FLOPS_CLIENT_HOME",
                type=path,
                metavar="FOLDER",
                help="The node's folder; default: ./flops-client.",
                show_envvar=True,
            ),
            click.option("--plain-text", is_flag=True, help="Without TLS; for trials on this machine alone."),
        )
    ):
        command = option(command)
    return command


def settle_client(options: Mapping[str, Any]) -> ClientSettings:
    """Check a node's options, by the names that `node_options` gives them.

    Raises:
        SettingsError: one is missing or cannot be used.
    """
    from client.home import KEY
    from client.home import home as default_home

    for name in ("server", "task", "data"):
        if not options[name]:
            raise SettingsError(f"--{name} is missing; give it, or set FLOPS_{name.upper()}")
    address, plain_text, ca = parse_address(options["server"]), options["plain_text"], options["ca"]
    if plain_text and address.rpartition(":")[0] not in LOOPBACK:
        raise SettingsError(f"--plain-text: {address} is another machine; leave the option out, TLS is needed")
    if plain_text and ca is not None:
        raise SettingsError("--plain-text and --ca exclude each other; without TLS there is no certificate")
    home = options["home"] or default_home()
    return ClientSettings(
        server=address,
        task=options["task"],
        data=options["data"],
        schema=options["schema"],
        home=home,
        key=options["key"] or home / KEY,
        ca=ca,
        policy=options["policy"],
        plain_text=plain_text,
    )


def parse_address(text: str) -> str:
    """Return ``host:port`` for what a user typed; without a port, 8080.

    Raises:
        SettingsError: it is no address.
    """
    match = _ADDRESS.fullmatch(text.strip())
    port = int(match.group(2) or DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise SettingsError(
            f"--server '{text}': write HOST or HOST:PORT, such as flops.example.org:8080, without https://"
        )
    return f"{match.group(1)}:{port}"


def check_data(path: Path) -> None:
    """Find out whether the examples can be read, without reading them.

    Raises:
        SettingsError: they cannot.
    """
    try:
        if path.is_dir():
            raise SettingsError(f"--data {path}: is a folder; name the file in it")
        path.open("rb").close()
    except FileNotFoundError as error:
        raise SettingsError(f"--data {path}: no such file") from error
    except OSError as error:
        raise SettingsError(f"--data {path}: cannot be read: {error.strerror}") from error


def read_ca(path: Path | None) -> bytes | None:
    """Read the CA's certificates.

    Raises:
        SettingsError: the file holds none.
    """
    import ssl

    if path is None:
        return None
    try:
        content = path.read_bytes()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii"))
    except OSError as error:
        if not isinstance(error, ssl.SSLError):
            raise SettingsError(f"--ca {path}: cannot be read: {error.strerror}") from error
        raise SettingsError(f"--ca {path}: no certificate in PEM format") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise SettingsError(f"--ca {path}: no certificate in PEM format") from error
    from cryptography import x509

    if not any(_signs(certificate) for certificate in x509.load_pem_x509_certificates(content)):
        raise SettingsError(
            f"--ca {path}: holds a server's certificate, not a CA's; ask the federation for its ca.pem"
        )
    return content


def _signs(certificate: Certificate) -> bool:
    """Tell whether a certificate may have signed others: nothing in it says that it has not."""
    from cryptography import x509

    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (x509.ExtensionNotFound, ValueError):
        return True
