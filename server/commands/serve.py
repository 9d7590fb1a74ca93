"""`flops server serve`: predictions of the current global model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from server.commands.common import federation_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    short_help="Serve predictions of the champion over HTTP.",
    epilog="Example: flops server serve --config federation.toml --port 8000",
)
@federation_option
@click.option("--host", default="0.0.0.0", show_default=True, help="Listen at this address.")  # noqa: S104 - a container
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Listen at this port.")
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
def serve(context: click.Context, config: Path, host: str, port: int, every: float, as_json: bool) -> None:
    """Answer predictions with the version that the alias `champion` names, and follow it.

    MLFLOW_TRACKING_URI names the registry. Without a champion the API answers 503 and says why; a registry that goes
    away, or a version that does not load, leaves the one before in place. POST /predict, GET /model, /health/live,
    /health/ready, /docs.
    """
    from fl.logs import log_to_people
    from fl.protocol import CHAMPION
    from server.serving.api import create_api
    from server.serving.champion import Champion
    from server.settings import read_federation

    settings = read_federation(config)
    import torch
    import uvicorn

    log_to_people("flops.server", as_json=as_json, debug=context.obj["debug"])
    torch.set_num_threads(1)  # Small models: a second thread costs more than it brings.
    api = create_api(Champion(settings.model, CHAMPION, every))
    uvicorn.run(api, host=host, port=port, log_level="warning", timeout_graceful_shutdown=10)
