"""`flops server`: the global server."""

from __future__ import annotations

from fl.commands.group import LazyGroup

server = LazyGroup(
    "server",
    help="Run the global server.",
    epilog="Example: flops server round --help",
    places={
        "certificate": "server.commands.certificate:certificate",
        "health": "server.commands.health:health",
        "key": "server.commands.key:key",
        "round": "server.commands.round:round_",
        "serve": "server.commands.serve:serve",
        "verify": "server.commands.verify:verify",
    },
)
