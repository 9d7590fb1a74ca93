"""Flower's FedAvg as it is. When each round begins, and when the last has ended, goes into a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Timed(FedAvg):
    """FedAvg that notes when a round begins."""

    def __init__(self, times: Path, **options: Any) -> None:
        super().__init__(**options)
        self._times = times

    def note(self) -> None:
        """Write down that it is now."""
        with self._times.open("a") as file:
            file.write(f"{time.time()}\n")

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Any:
        """Begin a round."""
        self.note()
        return super().configure_train(server_round, arrays, config, grid)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    config = context.run_config
    nodes = int(config["nodes"])
    strategy = Timed(
        Path(str(config["times"])), min_train_nodes=nodes, min_evaluate_nodes=nodes, min_available_nodes=nodes
    )
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(int(config["elements"]), np.float32) for _ in range(int(config["arrays"]))]
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(arrays),
        num_rounds=int(config["rounds"]),
        train_config=ConfigRecord({"torch": config["torch"]}),
        evaluate_config=ConfigRecord({"torch": config["torch"]}),
    )
    strategy.note()
