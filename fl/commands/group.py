"""Groups of commands whose modules are imported when one of them runs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import click

from fl.errors import unknown

if TYPE_CHECKING:
    from collections.abc import Mapping


class LazyGroup(click.Group):
    """A group that knows where its commands are and imports only the one that is asked for."""

    def __init__(self, *args: Any, places: Mapping[str, str], **kwargs: Any) -> None:
        """Make a group.

        Args:
            *args: click's.
            places: ``module:attribute`` of each command, by the name one types.
            **kwargs: click's.
        """
        super().__init__(*args, **kwargs)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names, sorted."""
        return sorted(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        if cmd_name not in self._places:
            return None
        module, _, attribute = self._places[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, or suggest the nearest."""
        if args and not args[0].startswith("-") and args[0] not in self._places:
            raise unknown("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)
