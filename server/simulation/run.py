"""A federation on one machine, from settings to a registered global model."""

from __future__ import annotations

import importlib.metadata
import json
import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fl import messages
from fl.errors import SettingsError
from fl.model import initial_state
from fl.training import TrainRequest
from server.app import create_server_app
from server.rounds import Federation, Plan, cohort_size
from server.simulation.compare import compare, passes
from server.simulation.sites import make_sites
from server.strategies import check_cohort, make_strategy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flwr.app import Context, Message

    from fl.data.dataset import Site
    from fl.messages import SiteDescription
    from fl.model import ModelState
    from fl.tasks.base import Task
    from server.registry import ModelVersion, Registry, RunLog
    from server.rounds import Observer, RoundRecord
    from server.simulation.compare import Comparison
    from server.simulation.settings import RunSettings


class Reporter(Protocol):
    """Shows a run to whoever started it."""

    def phase(self, text: str, steps: int | None = None) -> None:
        """A new part begins, of this many steps where that is known."""

    def step(self) -> None:
        """One step of the current part is done."""

    def round_done(self, record: RoundRecord, rounds: int) -> None:
        """A federated round is done."""


@dataclass(frozen=True)
class Outcome:
    """What a run gave, in memory; `as_json` is what machines read."""

    task: Task
    settings: RunSettings
    sites: Sequence[Site]
    history: Sequence[RoundRecord]
    state: ModelState
    comparison: Comparison | None
    model: ModelVersion
    parent: ModelVersion | None
    seconds: float

    @property
    def train_seconds(self) -> float:
        """Seconds spent in training rounds: weights out, training, weights back, aggregation."""
        return sum(record.train_seconds for record in self.history)

    def as_json(self) -> dict[str, Any]:
        """Return plain data; numbers that do not exist are null."""
        final, settings = self.history[-1].evaluation, self.settings
        result: dict[str, Any] = {
            "task": settings.task,
            "clients": len(self.sites),
            "rounds": settings.hyperparameters.rounds,
            "seed": settings.seed,
            "strategy": settings.strategy,
            "strategy_options": dict(settings.strategy_options),
            "partition": str(settings.partition),
            "engine": settings.engine,
            "device": settings.device,
            "accuracy": _number(final.metrics.get("accuracy")),
            "loss": _number(final.loss),
            "metrics": {name: _number(value) for name, value in final.metrics.items()},
            "model": {
                "name": self.model.name,
                "version": self.model.version,
                "parent": None if self.parent is None else self.parent.version,
                "digest": self.state.digest(),
            },
            "run_id": self.model.run_id,
            "seconds": round(self.seconds, 3),
            "train_seconds": round(self.train_seconds, 3),
            "out": str(settings.out),
        }
        if self.comparison is not None:
            scores = [e.metrics.get("accuracy", math.nan) for e in self.comparison.local.values()]
            result["local_accuracy"] = _number(float(np.mean(scores)))
            result["pooled_accuracy"] = _number(self.comparison.pooled.metrics.get("accuracy"))
        return result


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 6)


@dataclass
class _Watch:
    """Observes the rounds: keeps their records, and passes them on."""

    reporter: Reporter
    rounds: int
    log: RunLog
    history: list[RoundRecord] = field(default_factory=list)

    def joined(self, sites: Sequence[SiteDescription]) -> None:
        self.log.metrics(0, {f"hospital/{s.name}/examples": s.examples + s.holdout for s in sites})

    def round_done(self, record: RoundRecord) -> None:
        self.history.append(record)
        values = {"loss": record.evaluation.loss, **record.evaluation.metrics}
        values["train_seconds"], values["seconds"] = record.train_seconds, record.seconds
        for name, loss in record.train_loss.items():
            values[f"hospital/{name}/train_loss"] = loss
        for name, evaluation in record.sites.items():
            if evaluation.examples:
                values[f"hospital/{name}/loss"] = evaluation.loss
                values |= {f"hospital/{name}/{metric}": v for metric, v in evaluation.metrics.items()}
        self.log.metrics(record.round, values)
        self.reporter.round_done(record, self.rounds)


def simulate(task: Task, settings: RunSettings, reporter: Reporter) -> Outcome:
    """Run a federation and register its global model.

    Raises:
        UserError: settings, data or the registry are not usable; before any training.
        DivergenceError: training left the finite numbers; nothing is registered.
        FlopsError: anything else that is expected to go wrong at times.
    """
    done: list[ModelVersion] = []
    try:
        return _simulate(task, settings, reporter, done)
    except KeyboardInterrupt as error:
        # The command line shows this to whoever interrupted.
        made = [f"{model.name} version {model.version} was registered" for model in done]
        error.add_note(", ".join(made) or "nothing was registered")
        raise


def _simulate(task: Task, settings: RunSettings, reporter: Reporter, done: list[ModelVersion]) -> Outcome:
    started = time.perf_counter()
    if settings.engine == "ray":
        from server.simulation.ray_engine import require_ray

        require_ray()
    prepare_output(settings.out)
    sites = make_sites(task, settings)
    cohort = cohort_size(len(sites), settings.fraction)
    check_cohort(settings.strategy_spec, settings.strategy_options, cohort)
    reporter.phase("opening the model registry")
    from server.registry import Registry

    registry = Registry()
    parent, start = _start(task, settings, registry)
    name = f"{settings.task} · {settings.strategy} · {len(sites)} hospitals"
    with registry.run(name, {**settings.as_parameters(), "clients": len(sites)}) as log:
        watch = _Watch(reporter, settings.hyperparameters.rounds, log)
        reporter.phase("training", settings.hyperparameters.rounds)
        federation = make_federation(task, settings, len(sites), start, watch, parent)
        run_engine(task, settings, federation, sites)
        comparison = None
        if settings.compare:
            reporter.phase(
                "comparing with hospitals alone and pooled data", passes(len(sites), settings.hyperparameters)
            )
            first = replace(start, frozen=federation.state.frozen)
            comparison = compare(
                task, sites, first, settings.hyperparameters, settings.seed, settings.device, reporter.step
            )
            log.metrics(settings.hyperparameters.rounds, _comparison_metrics(comparison))
        reporter.phase("drawing")
        for picture in _draw(task, settings, sites, watch.history, comparison):
            log.file(picture)
        log.flush()
        reporter.phase("registering the global model")
        model = registry.register(
            log, settings.model_name, task, federation.state, _tags(settings, sites, federation.state, parent)
        )
        done.append(model)
        outcome = Outcome(
            task,
            settings,
            sites,
            watch.history,
            federation.state,
            comparison,
            model,
            parent,
            time.perf_counter() - started,
        )
        result = settings.out / "result.json"
        result.write_text(json.dumps(outcome.as_json(), indent=2) + "\n", encoding="utf-8")
        log.file(result)
    return outcome


def prepare_output(out: Path) -> None:
    """Make the output folder and see that it can be written.

    Raises:
        SettingsError: it cannot.
    """
    probe = out / ".write-test"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise SettingsError(
            f"output folder {out} cannot be written: {error.strerror}; choose another with --out"
        ) from error


def make_federation(
    task: Task,
    settings: RunSettings,
    hospitals: int,
    start: ModelState,
    observer: Observer,
    parent: ModelVersion | None = None,
) -> Federation:
    """Make the federation that these settings describe."""
    seed = settings.seed
    if parent is not None:
        # Another part of the same training: new draws, still fixed by seed and parent.
        seed = int(np.random.SeedSequence([settings.seed, parent.version]).generate_state(1)[0])
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
    return Federation(plan, strategy, start, observer, report_initial_loss=spec.initial_loss)


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


def _start(task: Task, settings: RunSettings, registry: Registry) -> tuple[ModelVersion | None, ModelState]:
    fresh = initial_state(task, settings.seed)
    if not settings.continued:
        return None, fresh
    parent = registry.latest(settings.model_name)
    if parent is None:
        raise SettingsError(
            f"--continue: model '{settings.model_name}' has no version yet; run without --continue first"
        )
    stored_task, state = registry.load(parent)
    same_task = json.dumps(stored_task.reference) == json.dumps(task.reference)
    if state.signature != fresh.signature or not same_task:
        raise SettingsError(
            f"--continue: version {parent.version} of '{settings.model_name}' was made for another task or schema "
            "and cannot go on with this one; choose another --model-name"
        )
    return parent, state


def _tags(
    settings: RunSettings, sites: Sequence[Site], state: ModelState, parent: ModelVersion | None
) -> dict[str, str]:
    tags = {
        "task": settings.task,
        "strategy": settings.strategy,
        "rounds": str(settings.hyperparameters.rounds),
        "clients": str(len(sites)),
        "seed": str(settings.seed),
        "signature": state.signature,
        "digest": state.digest(),
    }
    if parent is not None:
        tags["parent"] = str(parent.version)
    return tags


def _comparison_metrics(comparison: Comparison) -> dict[str, float]:
    values = {f"pooled_{name}": value for name, value in comparison.pooled.metrics.items()}
    for name in comparison.pooled.metrics:
        values[f"local_{name}"] = float(np.mean([e.metrics[name] for e in comparison.local.values()]))
    return values


def _draw(
    task: Task,
    settings: RunSettings,
    sites: Sequence[Site],
    history: Sequence[RoundRecord],
    comparison: Comparison | None,
) -> list[Path]:
    from server.simulation.plots import draw_learning_curve, draw_partition

    curve, partition = settings.out / "learning-curve.png", settings.out / "partition.png"
    draw_learning_curve(curve, settings.task, history, comparison)
    draw_partition(partition, task.schema.classes, sites, str(settings.partition))
    return [curve, partition]
