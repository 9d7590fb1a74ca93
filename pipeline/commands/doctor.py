"""`flops doctor`: everything a release needs."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from fl.commands.params import FilePath
from pipeline.commands.common import ALL, pipeline_options


@click.command(short_help="Check everything that a release needs.", epilog="Example: flops doctor")
@click.option(
    "--source", type=FilePath(), default=Path(), metavar="FOLDER", help="The source repository; default: this folder."
)
@pipeline_options
def doctor(source: Path, file: Path | None, as_json: bool) -> int:
    """Check what a release needs: engine, disk, registry, its CA, account and rights, deploy key, config repository.

    Each is a line with what was found, or with the mend. Nothing is changed. Ends with 1 where a check failed.
    """
    from fl.checks import FAILED
    from fl.console import print_table
    from pipeline.doctor import diagnose
    from pipeline.settings import read_settings

    checks = diagnose(read_settings(file, os.environ, needs=ALL), source)
    passed = all(c.result != FAILED for c in checks)
    if as_json:
        click.echo(json.dumps({"passed": passed, "checks": [asdict(c) for c in checks]}))
    else:
        print_table(("check", "result", "what"), [(c.what, c.result, c.found) for c in checks])
    return 0 if passed else 1
