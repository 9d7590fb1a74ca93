"""The Ray engine: the same apps on Flower's simulation runtime, on this machine or an existing Ray cluster.

``RAY_ADDRESS`` names a cluster; every machine of it needs FLOps installed. Sites are put into Ray's object
store once, so a message to a client carries a reference and not the data.
"""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fl.cli import installed
from fl.errors import FlopsError, SettingsError
from fl.tasks import from_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flwr.app import Context
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    from fl.data.dataset import Site
    from fl.tasks.base import Task
    from fl.training import Trainer


def require_ray() -> None:
    """Check that Ray is installed.

    Raises:
        SettingsError: it is not; says how to install it.
    """
    if not installed("ray"):
        raise SettingsError("--engine ray: Ray is not installed; pip install 'flops[ray]', or use --engine local")


@dataclass(frozen=True)
class _StoredSites:
    """Finds a context's site in Ray's object store."""

    reference: Any

    def __call__(self, context: Context) -> Site:
        site: Site = _fetch(self.reference)[int(context.node_config["partition-id"])]
        return site


@lru_cache(maxsize=1)
def _fetch(reference: Any) -> Sequence[Site]:
    import ray

    sites: Sequence[Site] = ray.get(reference)
    return sites


@dataclass(frozen=True)
class _WorkerTrainer:
    """Makes one trainer a worker process, and keeps it."""

    reference: str
    device: str

    def __call__(self) -> Trainer:
        return _trainer(self.reference, self.device)


@lru_cache(maxsize=1)
def _trainer(reference: str, device: str) -> Trainer:
    import json

    import torch

    from fl.training.sequential import SequentialTrainer

    if device == "cpu":
        torch.set_num_threads(1)  # Ray gives each worker one core.
    return SequentialTrainer(from_reference(json.loads(reference)), device)


def run_ray(
    server_app: ServerApp,
    create_client_app: Callable[..., ClientApp],
    task: Task,
    sites: Sequence[Site],
    device: str,
) -> None:
    """Run a federation of these sites on Ray.

    Raises:
        FlopsError: what the server app raised, or that Ray failed.
    """
    import json

    import ray
    from flwr.simulation import run_simulation

    failure: list[BaseException] = []
    _guard(server_app, failure)
    quiet = logging.getLogger("flwr")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's and Flower's own, about each other.
            if not os.environ.get("RAY_ADDRESS"):
                ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            else:
                ray.init(log_to_driver=False, logging_level=logging.ERROR)
            stored = _StoredSites(ray.put(list(sites)))
            client_app = create_client_app(stored, _WorkerTrainer(json.dumps(dict(task.reference)), device))
            resources: Mapping[str, float] = {"num_cpus": 1, "num_gpus": 1.0 if device == "cuda" else 0.0}
            run_simulation(
                server_app,
                client_app,
                num_supernodes=len(sites),
                backend_config={"client_resources": dict(resources), "init_args": {}},
            )
    except (RuntimeError, ConnectionError, ValueError) as error:
        if not failure:
            raise FlopsError(f"Ray failed: {type(error).__name__}: {error}") from error
    finally:
        quiet.setLevel(level)
        ray.shutdown()
    if failure:
        raise failure[0]


def _guard(server_app: ServerApp, failure: list[BaseException]) -> None:
    """Keep what the app raises: Flower runs it in a thread and reports something else."""
    inner = server_app._main
    assert inner is not None  # noqa: S101 - create_server_app sets it

    def main(grid: Any, context: Any) -> None:
        try:
            inner(grid, context)
        except BaseException as error:
            failure.append(error)

    server_app._main = main
