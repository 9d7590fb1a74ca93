"""`flops client health`: is the node alive?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fl.commands.params import FilePath

if TYPE_CHECKING:
    from pathlib import Path

STALE_SECONDS = 60.0
"""A state older than this is a dead node's: a living one renews it every ten seconds."""


@click.command(
    short_help="Tell whether the node is alive.",
    epilog="Example: flops client health",
)
@click.option(
    "--home",
    envvar="FLOPS_CLIENT_HOME",
    type=FilePath(),
    metavar="FOLDER",
    help="The node's folder; default: ./flops-client.",
    show_envvar=True,
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def health(home: Path | None, as_json: bool) -> int:
    """Tell whether the node of this folder is alive and what it does; for a container's health check.

    A node that waits for a server is well.
    """
    import json
    from datetime import UTC, datetime

    from client.home import STATE
    from client.home import home as default_home
    from fl.errors import FlopsError

    path = (home or default_home()) / STATE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        age = (datetime.now(UTC) - datetime.fromisoformat(told["time"])).total_seconds()
        state, server = str(told["state"]), str(told["server"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FlopsError(
            f"{path}: cannot be read; no node has been started with this folder, or --home names another"
        ) from error
    alive = age < STALE_SECONDS and state != "stopped"
    if as_json:
        click.echo(json.dumps({"healthy": alive, "state": state, "server": server, "seconds": round(age, 1)}))
    else:
        word = state if alive or state == "stopped" else "not alive"
        click.echo(f"{word}: {server} ({age:.0f} s ago)")
    return 0 if alive else 1
