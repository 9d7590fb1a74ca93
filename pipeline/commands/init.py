"""`flops init`: a settings file to begin with."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fl.commands.params import FilePath

_EXAMPLES = """\b
Examples:
  flops init
  flops init --registry harbor.example.org --project flops --repository git@git.example.org:flops/config.git
"""


@click.command(short_help="Write an example of flops.toml.", epilog=_EXAMPLES)
@click.option("--registry", metavar="HOST", help="The registry's name, with its port if it has one.")
@click.option("--project", metavar="NAME", help="The project in it.")
@click.option("--repository", metavar="ADDRESS", help="The config repository, as git clone takes it.")
@click.option(
    "--out", type=FilePath(), default=Path("flops.toml"), show_default=True, metavar="FILE", help="The file."
)
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def init(
    registry: str | None, project: str | None, repository: str | None, out: Path, force: bool, as_json: bool
) -> None:
    """Write a settings file of the release pipeline in which every key is explained. It holds no secret."""
    from fl.errors import SettingsError
    from fl.files import write_new
    from pipeline.options import example
    from pipeline.settings import check_text

    given = {"registry.host": registry, "registry.project": project, "config.repository": repository}
    text = example({name: value for name, value in given.items() if value})
    check_text(text)
    if out.is_dir():
        raise SettingsError(f"--out {out}: is a folder; name a file")
    try:
        write_new(out, text.encode(), 0o644, replace=force)
    except FileExistsError as error:
        raise SettingsError(f"{out} is there already; --force overwrites it") from error
    except OSError as error:
        raise SettingsError(f"--out {out}: cannot be written: {error.strerror}") from error
    missing = [name for name, value in given.items() if not value]
    if as_json:
        click.echo(json.dumps({"file": str(out), "examples_to_change": missing}))
        return
    click.echo(f"{out} is written" + (f"; change the examples of {', '.join(missing)}" if missing else ""))
    click.echo("Then 'flops doctor' says what else is missing.")
