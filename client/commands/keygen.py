"""`flops client keygen`: the pair of keys that a hospital's node proves itself with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fl.commands.params import FilePath

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    short_help="Make the node's pair of keys.",
    epilog='Example: flops client keygen --name "St Mary"',
)
@click.option(
    "--out",
    type=FilePath(),
    metavar="FOLDER",
    help="Folder for the pair; default: the one FLOPS_CLIENT_HOME names, or ./flops-client.",
)
@click.option("--name", default="hospital", show_default=True, help="The hospital's name; the federation shows it.")
@click.option("--force", is_flag=True, help="Replace a pair that is there; the old private key is lost.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def keygen(out: Path | None, name: str, force: bool, as_json: bool) -> None:
    """Make the pair of keys that this hospital's node proves itself with.

    The private key, node.key, stays here. The public key, NAME.pub, goes to the federation.
    """
    from client.home import KEY, home
    from fl import keys

    folder = out if out is not None else home()
    # What an older key made would be mailed by mistake.
    stale = sorted(f.name for f in folder.glob("*.pub") if f.name != f"{name}.pub") if force else []
    private, public = folder / KEY, folder / f"{name}.pub"
    key = keys.generate()
    keys.write_pair(key, private, public, name=name, overwrite=force)
    line, print_ = keys.public_line(key.public_key(), name), keys.fingerprint(key.public_key())
    for left in stale:
        click.echo(f"{folder / left} is not this key's; remove it, lest somebody sends it", err=True)
    if as_json:
        import json

        paths = {"private_key": str(private), "public_key": str(public)}
        click.echo(json.dumps({"name": name, **paths, "line": line, "fingerprint": print_}))
        return
    click.echo(line)
    click.echo()
    click.echo(f"Fingerprint:  {print_}")
    click.echo(f"Public key:   {public}: send this file to the federation, and tell it the fingerprint by telephone")
    click.echo(f"Private key:  {private}: never leaves this hospital; nobody else needs it, the federation neither")
