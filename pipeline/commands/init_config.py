"""`flops init-config`: the first content of the config repository."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import click

from fl.commands.params import FilePath
from pipeline.commands.common import pipeline_options


@click.command(
    "init-config",
    short_help="Fill an empty config repository.",
    epilog="Example: flops init-config git@git.example.org:flops/config.git",
)
@click.argument("address", metavar="[URL]", required=False)
@click.option(
    "--source", type=FilePath(), default=Path(), metavar="FOLDER", help="The source repository; default: this folder."
)
@pipeline_options
def init_config(address: str | None, source: Path, file: Path | None, as_json: bool) -> None:
    """Fill an empty config repository with this source's config-repo/, in one commit.

    Manifests get the registry's host and project from the settings. Without a URL it is the settings' repository.
    """
    from fl.errors import SettingsError
    from pipeline.first_content import fill
    from pipeline.settings import read_settings
    from pipeline.source import Source

    settings = read_settings(file, os.environ, needs=("registry.host", "registry.project"))
    settings = replace(settings, repository=address or settings.repository)
    if not settings.repository:
        raise SettingsError("name the config repository: flops init-config URL, or config.repository in flops.toml")
    commit, files = fill(settings, Source.open(source))
    if as_json:
        click.echo(json.dumps({"config_commit": commit, "files": files}))
        return
    click.echo("\n".join(files))
    click.echo(
        f"{len(files)} files are on branch {settings.branch}, commit {commit[:12]}; next: flops release --dry-run"
    )
