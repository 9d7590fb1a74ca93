"""`flops client receipts`: what the node was asked, what it received and what it sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fl.commands.params import FilePath

if TYPE_CHECKING:
    from pathlib import Path

HEADER = ("number", "time", "kind", "round", "model", "server commit", "examples", "bytes sent", "result")


@click.command(
    short_help="Show or check the node's receipts.",
    epilog="Example: flops client receipts --verify",
)
@click.option(
    "--file",
    "path",
    type=FilePath(),
    metavar="PATH",
    help="File of receipts; default: receipts.jsonl in the folder FLOPS_CLIENT_HOME names, or in ./flops-client.",
)
@click.option("--verify", is_flag=True, help="Check that none was changed or taken away; exit code 1 where one was.")
@click.option("--last", type=click.IntRange(min=1), default=20, show_default=True, help="How many, the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def receipts(path: Path | None, verify: bool, last: int, as_json: bool) -> None:
    """Show the receipts of this hospital's node, or check them."""
    from client.home import RECEIPTS, home

    path = path if path is not None else home() / RECEIPTS
    if verify:
        _verify(path, as_json)
    else:
        _show(path, last, as_json)


def _verify(path: Path, as_json: bool) -> None:
    from client.receipts import verify
    from fl.errors import FlopsError

    found = verify(path)
    if as_json:
        import json

        click.echo(json.dumps({"file": str(path), "receipts": found.entries, "problems": found.problems}))
    else:
        for problem in found.problems:
            click.echo(_clean(problem))
    if found.problems:
        count = len(found.problems)
        raise FlopsError(
            f"receipts {path}: the chain is not whole, {count} problem{'s' * (count > 1)}; keep the file as it is "
            "and compare it with a backup"
        )
    if not as_json:
        click.echo(f"{found.entries} receipt{'s' * (found.entries != 1)}, chain whole")


def _show(path: Path, last: int, as_json: bool) -> None:
    from client.receipts import newest
    from fl.errors import FlopsError

    entries = newest(path, last)
    if not entries and path.stat().st_size:
        raise FlopsError(f"receipts {path}: no receipt can be read from it; --file names another file")
    if as_json:
        import json

        click.echo(json.dumps({"file": str(path), "receipts": entries}))
        return
    if not entries:
        click.echo(f"{path}: no receipts yet")
        return
    from fl.console import print_table

    # Numbers stay numbers, for their column's sake.
    rows = [[cell if isinstance(cell, int) else _clean(cell) for cell in _row(entry)] for entry in entries]
    print_table(HEADER, rows)


def _row(entry: dict[str, Any]) -> tuple[int | str, ...]:
    """Return a receipt's cells; what a kind of receipt does not have is a dash."""
    result = ": ".join(str(entry[key]) for key in ("result", "reason") if entry.get(key))
    cells = (
        entry["number"],
        entry["time"].partition(".")[0].replace("T", " "),
        entry.get("kind"),
        entry.get("round"),
        _part(entry, "model", "version"),
        (_part(entry, "server", "commit") or "")[:12],
        entry.get("examples"),
        sum(_bytes(array) for array in entry["sent"]) if isinstance(entry.get("sent"), list) else None,
        result,
    )
    return tuple("-" if cell in (None, "") else cell if isinstance(cell, int) else str(cell) for cell in cells)


def _part(entry: dict[str, Any], key: str, inner: str) -> str | None:
    part = entry.get(key)
    value = part.get(inner) if isinstance(part, dict) else None
    return None if value is None else str(value)


def _bytes(array: Any) -> int:
    size = array.get("bytes") if isinstance(array, dict) else None
    return size if isinstance(size, int) else 0


def _clean(text: str) -> str:
    """Return a text without what could steer a terminal: some of it came from the server."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
