"""`flops server serve`: predictions of the current global model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fl.commands.params import FilePath

if TYPE_CHECKING:
    from fl.data.schema import Schema
    from server.registry import Registry

DEFAULT = Path("federation.toml")

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened at


@click.command(
    short_help="Serve predictions of the champion over HTTP.",
    epilog="Example: flops server serve --config federation.toml --port 8000",
)
@click.option(
    "--config",
    envvar="FLOPS_FEDERATION",
    type=FilePath(),
    metavar="FILE",
    help=f"The federation's file, which names the model; by default {DEFAULT}, if it is there.",
    show_envvar=True,
)
@click.option("--model", metavar="NAME", help="The registered model, instead; by default the only one that there is.")
@click.option("--host", default="0.0.0.0", show_default=True, help="Listen at this address.")  # noqa: S104 - a container
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Listen at this port.")
@click.option(
    "--keys",
    "keys_file",
    envvar="FLOPS_API_KEYS",
    type=FilePath(),
    metavar="FILE",
    help="Answer only who has a key of this file; 'flops server key' makes its lines.",
    show_envvar=True,
)
@click.option(
    "--max-body",
    type=click.FloatRange(0.001, 1024),
    default=4.0,
    show_default=True,
    metavar="MIB",
    help="The largest body of a request.",
)
@click.option(
    "--max-examples",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    help="The most examples in a request.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 3600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a request may take to come, and to be computed.",
)
@click.option(
    "--every",
    type=click.FloatRange(0.5, 3600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Look for a new champion so often.",
)
@click.option("--json", "as_json", is_flag=True, help="Log one JSON object a line.")
@click.pass_context
def serve(context: click.Context, /, *, host: str, port: int, as_json: bool, **options: Any) -> None:
    """Answer predictions with the version that the alias `champion` names, and follow it.

    MLFLOW_TRACKING_URI names the registry. Without a champion the API answers 503 and says why; a registry that goes
    away, or a version that does not load, leaves the one before in place. POST /predict or /invocations, GET /model,
    /metrics, /health/live, /health/ready, /docs, and a page at /. Where there are keys, only predictions and /model
    ask for one; the page shows the model's history to everybody.
    """
    import os
    import sys
    from contextlib import ExitStack

    # Small models: a second thread costs more than it brings. PyTorch reads this when it is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    from fl.logs import log_to_people
    from fl.protocol import CHAMPION
    from server.serving.ahead import Ahead

    log_to_people("flops.server", as_json=as_json, debug=context.obj["debug"])
    log_to_people("uvicorn", as_json=as_json, debug=context.obj["debug"], warnings_only=True)
    name, schema, registry = _model(context, options["config"], options["model"])
    with ExitStack() as stack:
        # Begun before the rest is imported: it takes as long.
        ahead = stack.enter_context(Ahead(name, CHAMPION)) if registry is None else None

        from server.serving.api import Options, create_api
        from server.serving.champion import Champion
        from server.serving.keys import Keys
        from server.serving.limits import MEBIBYTE, Limits
        from server.serving.listening import make_server, open_port

        keys = None if options["keys_file"] is None else Keys(options["keys_file"])
        limits = Limits(int(options["max_body"] * MEBIBYTE), options["max_examples"], options["timeout"])
        champion = Champion(name, CHAMPION, options["every"], registry, ahead)
        api = create_api(champion, Options(limits, keys, schema))
        opened = stack.enter_context(open_port(host, port))
        here = "localhost" if host in EVERYWHERE else f"[{host}]" if ":" in host else host
        click.echo(
            f"flops: http://{here}:{opened.getsockname()[1]}/ is a page for people, /docs for programs", err=True
        )
        server = make_server(api, limits.seconds)
        server.run([opened])
        if not server.started:
            sys.exit(1)


def _model(
    context: click.Context, config: Path | None, model: str | None
) -> tuple[str, Schema | None, Registry | None]:
    """Return the model's name, its task's schema where a file names the task, and the registry if it was opened."""
    from fl.errors import SettingsError

    if model is not None:
        if config is not None and context.get_parameter_source("config") is click.core.ParameterSource.COMMANDLINE:
            raise SettingsError("--model and --config exclude each other: the federation's file names a model, too")
        return model, None, None
    if config is None and DEFAULT.exists():
        config = DEFAULT
    if config is not None:
        from server.settings import read_federation

        settings = read_federation(config)
        return settings.model, settings.task.schema, None
    from server.models import choose_model, open_registry

    registry = open_registry()
    return choose_model(registry, None), None, registry
