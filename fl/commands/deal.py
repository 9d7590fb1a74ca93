"""`flops deal`: a task's data as one file a hospital."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from fl.commands.params import FilePath

_EXAMPLES = """\b
Examples:
  flops deal digits --clients 3
  flops deal breast-cancer --clients 4 --partition dirichlet:0.3 --out hospitals
"""


@click.command(epilog=_EXAMPLES)
@click.argument("task_name", metavar="TASK")
@click.option("--clients", type=int, help="Hospitals; default: the task's.")
@click.option(
    "--partition",
    default="iid",
    show_default=True,
    metavar="HOW",
    help="iid, dirichlet:ALPHA (label skew) or unequal:SIGMA (sizes).",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Fixes everything that is drawn.")
@click.option("--out", type=FilePath(), help="Folder for the files; default: flops-out/TASK-data.")
@click.option("--force", is_flag=True, help="Overwrite the files of an earlier deal.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def deal(
    task_name: str, clients: int | None, partition: str, seed: int, out: Path | None, force: bool, as_json: bool
) -> None:
    """Write a built-in task's data out as one file a hospital, to try a federation of separate processes.

    TASK is digits or breast-cancer, or one's own as package.module:task. Images become .npz files, tables .csv.
    """
    from fl.data.dealing import deal_files
    from fl.data.partition import parse_partition
    from fl.errors import SettingsError
    from fl.tasks import find_task

    if task_name == "tabular":
        raise SettingsError(
            "task 'tabular' has no data of its own to deal; its hospitals bring their own files (docs/data.md)"
        )
    how = parse_partition(partition)
    # Standard output is for the result alone, whatever a task of one's own prints.
    with contextlib.redirect_stdout(sys.stderr):
        task = find_task(task_name)
        folder = (
            out or Path("flops-out") / f"{''.join(c if c.isalnum() or c in '-_' else '-' for c in task_name)}-data"
        )
        files = deal_files(task, how, clients, seed, folder, force=force)
    if as_json:
        import json

        listed = [{"file": str(path), "examples": examples} for path, examples in files.items()]
        result = {"task": task_name, "clients": len(files), "partition": str(how), "seed": seed, "out": str(folder)}
        click.echo(json.dumps({**result, "files": listed}))
        return
    from fl.console import print_table

    print_table(("file", "examples"), [(str(path), examples) for path, examples in files.items()])
    click.echo(f"\nTo read its file a hospital needs nothing but the task's name, {task_name} (docs/data.md).")
