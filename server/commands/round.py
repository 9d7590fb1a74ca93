"""`flops server round`: one job of the global server."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fl.commands.params import FilePath

if TYPE_CHECKING:
    from server.outcome import Outcome

TERMINATION = Path("/dev/termination-log")
"""Where Kubernetes reads a container's last words."""

_PATH = FilePath(readable=False)  # What cannot be read is an outcome too, and told as one.


@click.command(
    "round",
    short_help="Run one job of the global server.",
    epilog="Example: flops server round --config federation.toml --hospitals hospitals --tls-cert server.pem "
    "--tls-key server.key",
)
@click.option(
    "--config",
    envvar="FLOPS_FEDERATION",
    type=_PATH,
    metavar="FILE",
    default="federation.toml",
    help="The federation's file.",
    show_default=True,
    show_envvar=True,
)
@click.option(
    "--hospitals",
    envvar="FLOPS_HOSPITALS",
    type=_PATH,
    metavar="FOLDER",
    help="Needed: the allow-list, each hospital's NAME.pub.",
    show_envvar=True,
)
@click.option(
    "--tls-cert",
    envvar="FLOPS_TLS_CERT",
    type=_PATH,
    metavar="FILE",
    help="Needed: the server's certificate chain, PEM.",
    show_envvar=True,
)
@click.option(
    "--tls-key",
    envvar="FLOPS_TLS_KEY",
    type=_PATH,
    metavar="FILE",
    help="Needed: its private key, PEM.",
    show_envvar=True,
)
@click.option(
    "--host", envvar="FLOPS_HOST", metavar="ADDRESS", help="The address to listen on; default: all.", show_envvar=True
)
@click.option(
    "--port",
    envvar="FLOPS_PORT",
    metavar="PORT",
    default="8080",
    help="The port; 0 takes a free one.",
    show_default=True,
    show_envvar=True,
)
@click.option("--plain-text", is_flag=True, help="Without TLS; for trials on this machine alone.")
@click.option(
    "--termination-message",
    envvar="FLOPS_TERMINATION_MESSAGE",
    type=_PATH,
    metavar="FILE",
    help="Where the JSON document goes too; default: /dev/termination-log where it is.",
    show_envvar=True,
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the JSON document alone; log one JSON object a line on standard error.",
)
@click.pass_context
def round_(context: click.Context, /, termination_message: Path | None, as_json: bool, **options: Any) -> int:
    """Run one job: admit hospitals, run the configured rounds from the newest version, register one more, end.

    The last line is a JSON document; its outcome is registered or skipped (exit code 0), failed (1) or
    misconfigured (2).
    """
    from fl.errors import SettingsError
    from fl.logs import log_to_people
    from server.outcome import FAILED, MISCONFIGURED, Outcome

    log_to_people("flops.server", as_json=as_json, debug=context.obj["debug"])
    try:
        outcome = _job(options)
    except SettingsError as error:
        _end(Outcome(MISCONFIGURED, str(error)), termination_message, as_json=as_json)
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]} (a bug; --debug shows where)"
        _end(Outcome(FAILED, reason), termination_message, as_json=as_json, told=True)
        raise
    except KeyboardInterrupt:  # While modules were imported or the registry was opened, say.
        outcome = Outcome(FAILED, "stopped before a round was complete; nothing is registered")
    _end(outcome, termination_message, as_json=as_json)
    from fl.leaving import leave
    from server.recording import FETCHING

    if any(thread.name == FETCHING for thread in threading.enumerate()):
        # A registry that hangs is waited for by threads of MLflow's, which would hold the process.
        leave(outcome.exit_code)
    return outcome.exit_code


def _job(options: dict[str, Any]) -> Outcome:
    from fl.errors import SettingsError
    from server.admission import read_allow_list
    from server.settings import check_list, parse_port, read_federation, settle_place

    place = settle_place(
        options["hospitals"],
        options["host"],
        parse_port(options["port"]),
        options["tls_cert"],
        options["tls_key"],
        plain_text=options["plain_text"],
    )
    if not options["config"].exists():
        raise SettingsError(f"--config {options['config']}: no such file; name the federation's file")
    settings = read_federation(options["config"])
    allowed = read_allow_list(place.hospitals)
    check_list(settings, options["config"], place, len(allowed))
    from server.job import run_job

    return run_job(settings, place, allowed)


def _end(outcome: Outcome, message: Path | None, *, as_json: bool, told: bool = False) -> None:
    from server.outcome import MISCONFIGURED

    if not as_json and not told and outcome.outcome != MISCONFIGURED:  # The command line says that line itself.
        click.echo(outcome.line)
    click.echo(outcome.as_json())
    path = message or (TERMINATION if TERMINATION.exists() else None)
    if path is None:
        return
    try:
        outcome.write_termination(path)
    except OSError as error:
        click.echo(f"flops: the termination message {path} cannot be written: {error.strerror}", err=True)
