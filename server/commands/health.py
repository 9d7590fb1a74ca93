"""`flops server health`: does the job's port answer, or the prediction API's?"""

from __future__ import annotations

import ssl

import click

_JOB, _API = "/health", "/health/live"
_SERVING = 8000
"""Where `flops server serve` listens unless it is told otherwise."""


@click.command(
    short_help="Ask the job or the prediction API here whether it is well.",
    epilog="Example: flops server health --port 8080",
)
@click.option(
    "--port",
    envvar="FLOPS_PORT",
    type=click.IntRange(1, 65535),
    default=8080,
    show_default=f"8080, and where nobody listens there, {_SERVING}",
    show_envvar=True,
    help="The port, on this machine.",
)
@click.option("--plain-text", is_flag=True, help="It runs without TLS, as the prediction API does.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def health(context: click.Context, port: int, plain_text: bool, as_json: bool) -> int:
    """Ask what runs on this machine whether it is well; for a container's health check.

    A job of `flops server round` is asked at its port, with TLS, or without where it speaks none. Where nobody
    listens there, and `--port` does not say that it must be that one, `flops server serve` is asked whether it lives.
    """
    import json

    from fl.errors import FlopsError

    chosen = context.get_parameter_source("port") is click.core.ParameterSource.COMMANDLINE
    try:
        status, port = _status(port, plain_text=plain_text, elsewhere=not chosen)
    except OSError as error:
        if as_json:
            click.echo(json.dumps({"healthy": False, "port": port}))
        hint = "; does it run with TLS? then leave out --plain-text" if plain_text else ""
        who = f"no job answers on port {port}" + ("" if chosen else f", and no prediction API on {_SERVING}")
        raise FlopsError(f"{who}: {error}{hint}") from error
    click.echo(json.dumps({"healthy": status == 200, "port": port}) if as_json else f"port {port} answers {status}")
    return 0 if status == 200 else 1


def _status(port: int, *, plain_text: bool, elsewhere: bool) -> tuple[int, int]:
    """Return what a job or a prediction API answers, and at which port.

    Args:
        port: the job's.
        plain_text: it runs without TLS.
        elsewhere: whether a prediction API may answer in the job's place.

    Raises:
        OSError: nobody answers.
    """
    try:
        status = _ask(port, _JOB, plain_text=plain_text)
    except ConnectionRefusedError:
        if not elsewhere:
            raise
        port, plain_text = _SERVING, True
        status = _ask(port, _API, plain_text=True)
    except ssl.SSLError:  # So answers what speaks no TLS.
        plain_text = True
        status = _ask(port, _JOB, plain_text=True)
    if plain_text and status == 503:
        status = _ask(port, _API, plain_text=True)  # A prediction API without a model lives, too.
    return status, port


def _ask(port: int, path: str, *, plain_text: bool) -> int:
    """Return the status with which a port of this machine answers.

    Raises:
        OSError: it does not.
    """
    import http.client

    connection: http.client.HTTPConnection
    if plain_text:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    else:
        # Whether the port lives is asked, on loopback; the certificate names another host.
        unverified = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=unverified)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except http.client.HTTPException as error:
        raise OSError(str(error) or type(error).__name__) from error
    finally:
        connection.close()
