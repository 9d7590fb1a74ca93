"""Kinds of options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class FilePath(click.Path):
    """A path; an empty text, as a shell makes of a variable that is not set, is a mistake and not this folder."""

    def __init__(self, *, readable: bool = True) -> None:
        super().__init__(path_type=Path, readable=readable)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if value == "":
            self.fail("the path is empty; name one, or leave the option out", param, ctx)
        return super().convert(value, param, ctx)
