"""The Ray engine: the same apps on Flower's simulation runtime, on this machine or an existing Ray cluster.

``RAY_ADDRESS`` names a cluster; every machine of it needs FLOps installed. Sites are put into Ray's object
store once, so a message to a client carries a reference and not the data.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import threading
import time
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError, SettingsError
from fl.tasks import from_reference
from server.grid import GridProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp

    from fl.data.dataset import Site
    from fl.tasks.base import Task
    from fl.training import Trainer


_POLL_SECONDS = 0.01


def require_ray() -> None:
    """Check that Ray is installed.

    Raises:
        SettingsError: it is not; says how to install it.
    """
    if importlib.util.find_spec("ray") is None:
        raise SettingsError(
            "--engine ray: Ray is not installed; pip install '.[ray]' in the source's folder brings it, or use "
            "--engine local"
        )


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
    stop = threading.Event()
    _guard(server_app, failure, stop)
    quiet = logging.getLogger("flwr")
    level = quiet.level
    if level > logging.DEBUG:  # Flower's own report of what is raised below would be a second one.
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
        stop.set()
        quiet.setLevel(level)
        ray.shutdown()
    if failure:
        raise failure[0]


def _guard(server_app: ServerApp, failure: list[BaseException], stop: threading.Event) -> None:
    """Keep what the app raises, and end it on request.

    Flower runs the app in a thread of its own, reports something else than what it raised, and would wait for
    it for ever after an interruption.
    """
    inner = server_app._main
    assert inner is not None  # noqa: S101 - create_server_app sets it

    def main(grid: Grid, context: Any) -> None:
        try:
            inner(_Stoppable(grid, stop), context)
        except BaseException as error:
            failure.append(error)

    server_app._main = main


class _Stoppable(GridProxy):
    """A grid whose waiting ends when the run is over; it also asks for replies more often than Flower's."""

    def __init__(self, grid: Grid, stop: threading.Event) -> None:
        super().__init__(grid)
        self._stop = stop

    def get_node_ids(self) -> Iterable[int]:
        self._check()
        return self._grid.get_node_ids()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        waiting = set(self._grid.push_messages(messages))
        deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        replies: list[Message] = []
        while waiting and time.monotonic() < deadline:
            self._check()
            arrived = list(self._grid.pull_messages(waiting))
            replies += arrived
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            if waiting:
                self._stop.wait(_POLL_SECONDS)
        return replies

    def _check(self) -> None:
        if self._stop.is_set():
            raise FlopsError("the run was ended")
