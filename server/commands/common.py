"""What the commands of the global server share."""

from __future__ import annotations

from pathlib import Path

import click

from fl.commands.params import FilePath

federation_option = click.option(
    "--config",
    envvar="FLOPS_FEDERATION",
    type=FilePath(),
    metavar="FILE",
    default=Path("federation.toml"),
    help="The federation's file.",
    show_default=True,
    show_envvar=True,
)
"""Gives a command the federation's file. `flops server round` has one of its own: there what cannot be read is an
outcome."""
