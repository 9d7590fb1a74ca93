"""The global server's Flower app: a federation's rounds over whatever grid the runtime gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.serverapp import ServerApp

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.serverapp import Grid

    from server.rounds import Federation


def create_server_app(federation: Federation) -> ServerApp:
    """Make the server app of one job. Afterwards the federation holds the global model."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's signature
        federation.run(grid)

    return app
