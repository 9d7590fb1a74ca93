"""`flops client`: what a hospital's administrator types."""

from __future__ import annotations

from fl.commands.group import LazyGroup

client = LazyGroup(
    "client",
    help="Take part in a federation as a hospital.",
    epilog="Example: flops client start --help",
    places={
        "check": "client.commands.check:check",
        "health": "client.commands.health:health",
        "keygen": "client.commands.keygen:keygen",
        "receipts": "client.commands.receipts:receipts",
        "start": "client.commands.start:start",
    },
)
