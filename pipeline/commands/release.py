"""`flops release`: build, ship, try, bump."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fl.commands.params import FilePath
from pipeline.commands.common import ALL, append, pipeline_options, sayer, who

if TYPE_CHECKING:
    from pipeline.release import Release
    from pipeline.verdict import Verdict

_EXAMPLES = """\b
Examples:
  flops release
  flops release --dry-run
  flops release --commit v1.2.0 --json
"""


@click.command(short_help="Make a commit the running server: build, ship, try, bump.", epilog=_EXAMPLES)
@click.option("--commit", "revision", default="HEAD", show_default=True, metavar="REVISION", help="What is released.")
@click.option(
    "--source", type=FilePath(), default=Path(), metavar="FOLDER", help="The source repository; default: this folder."
)
@click.option("--dry-run", is_flag=True, help="Build nothing, change nothing; show what would be committed.")
@click.option("--no-smoke", is_flag=True, help="Without the trial federation: whatever builds is deployed.")
@click.option(
    "--replace",
    is_flag=True,
    help="Even where the deployed commit is no ancestor of this one, but never an older one.",
)
@click.option("--rebuild", is_flag=True, help="Even what did not change, without the engine's cache.")
@pipeline_options
def release(
    revision: str,
    source: Path,
    dry_run: bool,
    no_smoke: bool,
    replace: bool,
    rebuild: bool,
    file: Path | None,
    as_json: bool,
) -> int:
    """Build both images of a commit, push them, try them in a federation, and put them into the config repository.

    Where neither image would change, or a newer commit is deployed, or releases are held, it says so and changes
    nothing. Settings stand in flops.toml (flops init makes one); the registry's account in HARBOR_USERNAME and
    HARBOR_PASSWORD, a deploy key in SSH_PRIVATE_KEY where no file is named.
    """
    from fl.console import print_table
    from fl.errors import FlopsError
    from pipeline.model_registry import VARIABLES
    from pipeline.release import Release
    from pipeline.settings import read_settings
    from pipeline.source import Source
    from pipeline.verdict import FAILED, Verdict

    environment = commit = ""
    say = sayer()
    try:
        settings = read_settings(file, os.environ, needs=ALL)
        environment = settings.environment
        found = Source.open(source, revision)
        commit = found.commit
        say(f"commit {commit[:12]}: {found.subject}")
        if found.dirty:
            say("the working tree holds changes that are not committed; they are not released")
        made = Release(
            settings,
            found,
            who(),
            replaces=replace,
            smoke=settings.smoke and not no_smoke,
            say=say,
            rebuild=rebuild,
            registry_variables={name: os.environ[name] for name in VARIABLES if os.environ.get(name)},
        )
        verdict = made.plan() if dry_run else _run(made)
    except FlopsError as error:
        _tell(Verdict(FAILED, str(error), environment, commit), as_json=as_json)
        raise
    if _tell(verdict, as_json=as_json):
        return 0
    if verdict.diff:
        click.echo(verdict.diff)
    print_table(("release", ""), verdict.rows())
    click.echo(verdict.line)
    return 0


def _tell(verdict: Verdict, *, as_json: bool) -> bool:
    """Tell GitHub how a release ended, and programs, which is all that is printed then."""
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        append(Path(summary), verdict.as_markdown())
    if as_json:
        click.echo(json.dumps(verdict.as_dict()))
    return as_json


def _run(made: Release) -> Verdict:
    """Run a release; what a failed step printed last is shown before the error."""
    from pipeline.images import BuildFailed
    from pipeline.sandbox import SandboxFailed

    try:
        return made.run()
    except BuildFailed as error:
        click.echo("\n".join(error.lines), err=True)
        raise
    except SandboxFailed as error:
        for name, text in error.logs.items():
            click.echo(f"--- {name}\n{text}", err=True)
        raise
