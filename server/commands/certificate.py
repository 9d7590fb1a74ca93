"""`flops server certificate`: a CA of one's own, and the server's certificate from it."""

from __future__ import annotations

from pathlib import Path

import click

from fl.commands.params import FilePath


@click.command(
    short_help="Make the server's certificate, and a CA.",
    epilog="Example: flops server certificate --host flops.example.org --out tls",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    required=True,
    metavar="NAME",
    help="A name or address that hospitals reach the server under; may be given again.",
)
@click.option(
    "--out",
    type=FilePath(),
    default=Path("tls"),
    show_default=True,
    metavar="FOLDER",
    help="Where the files go.",
)
@click.option(
    "--days",
    type=click.IntRange(1, 825),
    default=365,
    show_default=True,
    help="How long the server's certificate is valid.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def certificate(hosts: tuple[str, ...], out: Path, days: int, as_json: bool) -> None:
    """Make the server's certificate and key, and a CA to sign it where the folder has none yet.

    Hospitals get ca.pem. Run again, it makes a new server certificate from the same CA, and they notice nothing.
    """
    import json

    from fl.errors import SettingsError
    from server.certificates import CA_CERTIFICATE, CA_KEY, CERTIFICATE, KEY, make_certificates

    try:
        make_certificates(out, hosts, days)
    except OSError as error:
        raise SettingsError(f"--out {out}: cannot be written: {error.strerror}") from error
    files = {"ca": CA_CERTIFICATE, "ca_key": CA_KEY, "certificate": CERTIFICATE, "key": KEY}
    if as_json:
        click.echo(json.dumps({"hosts": list(hosts), **{name: str(out / file) for name, file in files.items()}}))
        return
    click.echo(f"For the hospitals:  {out / CA_CERTIFICATE}")
    click.echo(f"For the server:     {out / CERTIFICATE} and {out / KEY}")
    click.echo(f"For nobody:         {out / CA_KEY}; keep it offline, it signs the next certificate")
