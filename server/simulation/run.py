"""A federation on one machine, from settings to a registered global model."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fl.bundle import save_bundle
from fl.errors import FlopsError, SettingsError
from fl.model import initial_state
from fl.protocol import CHAMPION, this_release
from fl.training.threads import suitable_threads, thread_count
from server.lineage import FILE, Lineage, measured, with_metrics
from server.metrics import hospital_metric, round_metrics
from server.plan import cohort_size
from server.records import contributions
from server.simulation.compare import compare, passes
from server.simulation.federate import make_federation, run_engine
from server.simulation.outcome import Outcome
from server.simulation.probe import check_task
from server.simulation.sites import make_sites
from server.strategies import check_cohort

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fl.data.dataset import Site
    from fl.messages import SiteDescription
    from fl.model import ModelState
    from fl.tasks.base import Task
    from server.records import RoundRecord
    from server.registry import ModelVersion, Registry
    from server.run_log import RunLog
    from server.simulation.compare import Comparison
    from server.simulation.settings import RunSettings

_log = logging.getLogger("flops.run")

CURVE, PARTITION, RESULT, MODEL = "learning-curve.png", "partition.png", "result.json", "model"
"""What a run leaves in its output folder."""


class Reporter(Protocol):
    """Shows a run to whoever started it."""

    def phase(self, text: str, steps: int | None = None) -> None:
        """A new part begins, of this many steps where that is known."""

    def step(self) -> None:
        """One step of the current part is done."""

    def round_done(self, record: RoundRecord, rounds: int) -> None:
        """A federated round is done."""


@dataclass
class _Watch:
    """Observes the rounds: keeps their records, and passes them on."""

    reporter: Reporter
    rounds: int
    log: RunLog
    history: list[RoundRecord] = field(default_factory=list)

    def joined(self, sites: Sequence[SiteDescription]) -> None:
        self.log.metrics(0, {hospital_metric(s.name, "examples"): s.examples + s.holdout for s in sites})

    def round_done(self, record: RoundRecord) -> None:
        self.history.append(record)
        self.log.metrics(record.round, round_metrics(record))
        self.reporter.round_done(record, self.rounds)


def simulate(task: Task, settings: RunSettings, reporter: Reporter) -> Outcome:
    """Run a federation and register its global model.

    Raises:
        UserError: settings, data or the registry are not usable; before any training.
        DivergenceError: training left the finite numbers; nothing is registered.
        FlopsError: anything else that is expected to go wrong at times.
    """
    started = time.perf_counter()
    # 1. Whatever can be wrong is found before anything is trained.
    if settings.engine == "ray":
        from server.simulation.ray_engine import require_ray

        require_ray()
    prepare_output(settings.out)
    fresh = initial_state(task, settings.seed)
    registry = _open(reporter) if settings.continued else None
    parent, start = (None, fresh) if registry is None else _parent(task, settings, registry, fresh)
    # What the parent was judged by stays held out.
    split_seed = settings.seed if parent is None else int(parent.tags.get("split_seed", settings.seed))
    sites = make_sites(task, settings, split_seed)
    cohort = cohort_size(len(sites), settings.fraction)
    check_cohort(settings.strategy_spec, settings.strategy_options, cohort)
    check_task(task, sites)
    registry = registry or _open(reporter)
    name = f"{settings.task} · {settings.strategy} · {len(sites)} hospitals"
    parameters = {**settings.as_parameters(), "clients": len(sites), "threads": thread_count(task)}
    with registry.run(name, parameters) as log:
        try:
            # 2. Training, and the comparison with other ways of training.
            history, state, comparison = _train(task, settings, sites, (fresh, start), parent, log, reporter)
            # 3. The version: it is made last, when all that it says of itself is stored.
            reporter.phase("registering the global model")
            save_bundle(settings.out / MODEL, task, state)
            lineage = _lineage(settings, parameters, history, state, parent, time.perf_counter() - started)
            own = {"clients": str(len(sites)), "strategy": settings.strategy, "seed": str(settings.seed)}
            tags = {**lineage.tags(), **own, "split_seed": str(split_seed)}
            files = {FILE: lineage.as_json()}
            model = registry.register(log, settings.model_name, task, state, tags, parent, files=files)
            served = _serve_it(registry, model)
        except KeyboardInterrupt as error:
            # The command line shows this to whoever interrupted.
            made = registry.made_by(settings.model_name, log.run_id)
            error.add_note(f"{made.name} version {made.version} was registered" if made else "nothing was registered")
            raise
    seconds = time.perf_counter() - started
    outcome = Outcome(task, settings, sites, history, state, comparison, model, parent, seconds, served)
    _write_result(outcome, log)
    return outcome


def _train(
    task: Task,
    settings: RunSettings,
    sites: Sequence[Site],
    states: tuple[ModelState, ModelState],
    parent: ModelVersion | None,
    log: RunLog,
    reporter: Reporter,
) -> tuple[list[RoundRecord], ModelState, Comparison | None]:
    from server.simulation.plots import draw_learning_curve, draw_partition

    h, (fresh, start) = settings.hyperparameters, states
    # The picture is known before training; storing it now shows that files can be stored at all.
    draw_partition(settings.out / PARTITION, task.schema.classes, sites, str(settings.partition))
    log.file(settings.out / PARTITION)
    watch = _Watch(reporter, h.rounds, log)
    reporter.phase("training", h.rounds)
    federation = make_federation(task, settings, len(sites), start, watch, parent)
    with suitable_threads(task):
        run_engine(task, settings, federation, sites)
    comparison = None
    if settings.compare:
        reporter.phase("comparing with hospitals alone and pooled data", passes(len(sites), h))
        first = replace(fresh, frozen=federation.state.frozen)  # Alone and pooled know of no parent.
        with suitable_threads(task):
            comparison = compare(task, sites, first, h, settings.seed, settings.device, reporter.step)
        log.metrics(h.rounds, _comparison_metrics(comparison))
    draw_learning_curve(settings.out / CURVE, settings.task, watch.history, comparison)
    log.file(settings.out / CURVE)
    log.flush()
    return watch.history, federation.state, comparison


def _write_result(outcome: Outcome, log: RunLog) -> None:
    path, model = outcome.settings.out / RESULT, outcome.model
    try:
        path.write_text(json.dumps(outcome.as_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise FlopsError(
            f"{model.name} version {model.version} is registered, but {path} cannot be written: {error.strerror}"
        ) from error
    try:
        log.file(path)
    except Exception:
        _log.warning("%s could not be stored with the run; the version is registered", path, exc_info=True)


def prepare_output(out: Path) -> None:
    """Make the output folder and see that it can be written.

    Raises:
        SettingsError: it cannot.
    """
    probe = out / ".write-test"
    try:
        (out / MODEL).mkdir(parents=True, exist_ok=True)
        for name in (CURVE, PARTITION, RESULT):
            with (out / name).open("ab"):
                pass
            if (out / name).stat().st_size == 0:
                (out / name).unlink()
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise SettingsError(
            f"output folder {out} cannot be written: {error.strerror}; choose another with --out"
        ) from error


def _open(reporter: Reporter) -> Registry:
    reporter.phase("opening the model registry")
    from server.registry import Registry  # Takes a second, and only now.

    return Registry()


def _parent(
    task: Task, settings: RunSettings, registry: Registry, fresh: ModelState
) -> tuple[ModelVersion, ModelState]:
    """Return the newest version and its model, which must be one of this task."""
    parent = registry.latest(settings.model_name)
    if parent is None:
        raise SettingsError(
            f"--continue: model '{settings.model_name}' has no version yet; run without --continue first"
        )
    try:
        stored_task, state = registry.load(parent)
    except SettingsError as error:
        raise SettingsError(f"--continue: version {parent.version} of '{settings.model_name}': {error}") from error
    same_task = json.dumps(stored_task.reference) == json.dumps(task.reference)
    if state.signature != fresh.signature or not same_task:
        raise SettingsError(
            f"--continue: version {parent.version} of '{settings.model_name}' was made for another task or schema "
            "and cannot go on with this one; choose another --model-name"
        )
    return parent, state


def _lineage(
    settings: RunSettings,
    parameters: Mapping[str, Any],
    history: Sequence[RoundRecord],
    state: ModelState,
    parent: ModelVersion | None,
    seconds: float,
) -> Lineage:
    last = history[-1]
    return Lineage(
        model=settings.model_name,
        task=settings.task,
        signature=state.signature,
        digest=state.digest(),
        parent=parent.version if parent is not None else 0,
        commit=this_release().commit,
        rounds=len(history),
        settings={name: str(value) for name, value in parameters.items()},
        hospitals=with_metrics(contributions(history), last),
        metrics=measured(last.evaluation),
        seconds=round(seconds, 3),
    )


def _serve_it(registry: Registry, model: ModelVersion) -> bool:
    """Let the version be served where the registry is this folder's; what a shared one serves is the jobs' to say."""
    if not registry.embedded:
        return False
    from server.registry import AliasMoved

    there = registry.aliased(model.name, CHAMPION)
    try:
        registry.move_alias(model, CHAMPION, 0 if there is None else there.version)
    except AliasMoved:  # By a run that ended in the same moment.
        return False
    return True


def _comparison_metrics(comparison: Comparison) -> dict[str, float]:
    values = {f"pooled_{name}": value for name, value in comparison.pooled.metrics.items()}
    for name in comparison.pooled.metrics:
        values[f"local_{name}"] = float(np.mean([e.metrics[name] for e in comparison.local.values()]))
    return values
