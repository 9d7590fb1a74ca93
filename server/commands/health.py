"""`flops server health`: does the job's port answer?"""

from __future__ import annotations

import click


@click.command(
    short_help="Ask the job here whether it is well.",
    epilog="Example: flops server health --port 8080",
)
@click.option(
    "--port",
    envvar="FLOPS_PORT",
    type=click.IntRange(1, 65535),
    default=8080,
    show_default=True,
    show_envvar=True,
    help="The job's port, on this machine.",
)
@click.option("--plain-text", is_flag=True, help="The job runs without TLS.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def health(port: int, plain_text: bool, as_json: bool) -> int:
    """Ask the job on this machine whether it is well; for a container's health check."""
    import http.client
    import json
    import ssl

    from fl.errors import FlopsError

    connection: http.client.HTTPConnection
    if plain_text:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    else:
        # Whether the port lives is asked, on loopback; the certificate names another host.
        unverified = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=unverified)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        if as_json:
            click.echo(json.dumps({"healthy": False, "port": port}))
        hint = "; does it run with TLS? then leave out --plain-text" if plain_text else ""
        raise FlopsError(f"no job answers on port {port}: {error}{hint}") from error
    finally:
        connection.close()
    click.echo(json.dumps({"healthy": status == 200, "port": port}) if as_json else f"port {port} answers {status}")
    return 0 if status == 200 else 1
