"""`flops server key`: a key for the prediction API."""

from __future__ import annotations

import click


@click.command(
    short_help="Make a key for the prediction API.",
    epilog="Example: flops server key ward-7 --json",
)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def key(name: str, as_json: bool) -> None:
    """Make a key for the prediction API, and its line for the file that `flops server serve --keys` reads.

    The key is shown this once and stored nowhere: the file holds its hash. NAME stands in the log of requests. A line
    that is taken out of the file, or added, counts within a second; nothing is started again.
    """
    import json

    from server.serving.keys import make_key

    made, line = make_key(name)
    if as_json:
        click.echo(json.dumps({"name": name, "key": made, "line": line}))
        return
    click.echo(f"For {name}, shown this once:  {made}")
    click.echo(f"For the file of --keys:  {line}")
