"""From settings to a running federation: the strategy, the apps of both sides, the engine."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

from fl import messages
from fl.training import TrainRequest
from server.app import create_server_app
from server.plan import Plan, job_seed
from server.rounds import Federation
from server.strategies import make_strategy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flwr.app import Context, Message

    from fl.data.dataset import Site
    from fl.model import ModelState
    from fl.tasks.base import Task
    from server.records import Observer
    from server.registry import ModelVersion
    from server.simulation.settings import RunSettings


def make_federation(
    task: Task,
    settings: RunSettings,
    hospitals: int,
    start: ModelState,
    observer: Observer,
    parent: ModelVersion | None = None,
) -> Federation:
    """Make the federation that these settings describe."""
    seed = job_seed(settings.seed, 0 if parent is None else parent.version)
    plan = Plan(
        task,
        settings.hyperparameters.rounds,
        settings.hyperparameters,
        settings.fraction,
        seed,
        settle_statistics=parent is None,
        hospitals=hospitals,
    )
    spec = settings.strategy_spec
    strategy = make_strategy(spec, settings.strategy_options, settings.hyperparameters)
    return Federation(plan, strategy, start, observer, report_initial_loss=spec.initial_loss, keep_all=spec.needs_all)


def run_engine(task: Task, settings: RunSettings, federation: Federation, sites: Sequence[Site]) -> None:
    """Run a federation's rounds on the engine that the settings name."""
    create_client_app = _load_client_part()
    server_app = create_server_app(federation)
    if settings.engine == "ray":
        from server.simulation.ray_engine import run_ray

        run_ray(server_app, create_client_app, task, sites, settings.device)
        return
    from server.simulation.cohort import CohortTrainer
    from server.simulation.local import run_local

    trainer = CohortTrainer(task, sites, settings.device)

    def site_of(context: Context) -> Site:
        return sites[int(context.node_config["partition-id"])]

    def prepare(batch: Sequence[tuple[Message, Context]]) -> None:
        kinds = {message.metadata.message_type for message, _ in batch}
        if any(message.content is not batch[0][0].content for message, _ in batch):
            return  # A strategy that tells hospitals different things gets them trained one by one.
        if kinds == {messages.TRAIN}:
            state = messages.read_state(batch[0][0])
            config = messages.read_train_config(messages.read_config(batch[0][0]))
            trainer.announce([TrainRequest(site_of(context), state, config) for _, context in batch])
        elif kinds == {messages.EVALUATE}:
            state = messages.read_state(batch[0][0])
            trainer.announce_evaluation(state, [site_of(context).holdout for _, context in batch])

    run_local(server_app, create_client_app(site_of, lambda: trainer), len(sites), prepare)


def _load_client_part() -> Any:
    """Return what makes the client app, without importing the client by name."""
    (entry,) = importlib.metadata.entry_points(group="flops.apps", name="client")
    return entry.load()
