"""One job of the global server: admit hospitals, run the rounds, register what came of them, end.

The server keeps nothing of its own: a job starts from the registry's newest version and ends with one more, or with
none. Killed at any moment it loses its own rounds and nothing else.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from fl.console import count
from fl.errors import FlopsError, SettingsError, interruption
from fl.protocol import contract_entries, this_contract
from server.outcome import FAILED, REGISTERED, SKIPPED, Outcome
from server.plan import Joining, Plan, job_seed
from server.records import LeftOut, TooFewHospitals, contributions
from server.rounds import Federation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from flwr.serverapp import Grid

    from fl.messages import SiteDescription
    from fl.model import ModelState
    from server.admission import Hospital
    from server.recording import Recorder
    from server.records import RoundRecord
    from server.registry import ModelVersion
    from server.settings import FederationSettings, Place

RECORD_SECONDS = 60.0
"""How long a registry that does not answer is tried again at the end of a job."""

STOPPED_SECONDS = 12.0
"""How long it is tried after SIGTERM: a pod is killed 20 seconds after it."""

_Result = TypeVar("_Result")

_log = logging.getLogger("flops.server")


@dataclass
class Progress:
    """What has been reached so far, since the job's start; also the federation's observer."""

    history: list[RoundRecord] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    sites: list[SiteDescription] = field(default_factory=list)
    state: ModelState | None = None
    started: float = field(default_factory=time.monotonic)
    _federation: Federation | None = None

    def seconds(self) -> float:
        """Return how long the job has run."""
        return time.monotonic() - self.started

    def follow(self, federation: Federation) -> None:
        """Take the federation whose state counts after each round."""
        self._federation = federation

    def joined(self, sites: Sequence[SiteDescription]) -> None:
        """Say who takes part."""
        self.sites = list(sites)
        told = ", ".join(
            f"{site.name} ({site.examples}{'' if site.trains else ', evaluates only'})" for site in sites
        )
        _log.info("%s: %s", count(len(sites), "hospital"), told)

    def round_done(self, record: RoundRecord) -> None:
        """Keep a round that is complete."""
        self.history.append(record)
        if self._federation is not None:
            self.state = self._federation.state
        measured = ", ".join(f"{name} {value:.3f}" for name, value in record.evaluation.metrics.items())
        _log.info(
            "round %d: %s, loss %.4f%s (%.1f s)",
            record.round,
            count(len(record.train_loss), "hospital"),
            record.evaluation.loss,
            f", {measured}" if measured else "",
            record.seconds,
        )

    def leave_out(self, left: LeftOut) -> None:
        """Keep whom a step went on without."""
        self.left_out.append(left)
        (_log.info if left.refused else _log.warning)("%s", left)

    def hospitals(self) -> dict[str, dict[str, Any]]:
        """Return who took part: examples and rounds."""
        found = contributions(self.history)
        for site in self.sites:
            if site.name in found and site.contract is not None:
                found[site.name]["release"] = str(site.contract.release)
        return found

    def left_out_rows(self) -> tuple[dict[str, Any], ...]:
        """Return whom steps went on without."""
        return tuple(
            {"hospital": left.hospital, "step": left.step, "reason": left.reason, "refused": left.refused}
            for left in self.left_out
        )


class Stop:
    """SIGTERM while a job is being recorded: heard, and answered by hurrying."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def hurry_only(self) -> None:
        """From now on SIGTERM and SIGINT interrupt nothing; what is under way is finished soon."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.asked.set())


def run_job(settings: FederationSettings, place: Place, allowed: Iterable[Hospital]) -> Outcome:
    """Run one job and say how it ended.

    Raises:
        SettingsError: the settings cannot be used; found before any hospital is asked.
    """
    from server.heap import share_heaps, small_tls_buffers
    from server.superlink import SuperLink, TlsFiles

    share_heaps()
    small_tls_buffers()
    started = time.monotonic()
    allowed = tuple(allowed)
    tls = None if place.certificate is None or place.key is None else TlsFiles(place.certificate, place.key)
    link = SuperLink(allowed, place.host, place.port, tls)
    progress, stop = Progress(), Stop()
    try:
        grid = link.start()
        _log.info("listening on %s:%d for %s", place.host, link.port, count(len(allowed), "hospital"))
        outcome = _run(settings, link.names, len(allowed), grid, progress, stop, link.stop)
    except TooFewHospitals as error:
        outcome = Outcome(SKIPPED, str(error))
    except SettingsError:
        raise
    except FlopsError as error:
        outcome = Outcome(FAILED, str(error))
    except KeyboardInterrupt:
        outcome = Outcome(FAILED, "stopped before a round was complete; nothing is registered")
    finally:
        link.stop()
    return replace(
        outcome,
        model=settings.model,
        hospitals=progress.hospitals(),
        left_out=progress.left_out_rows(),
        seconds=time.monotonic() - started,
    )


def _run(
    settings: FederationSettings,
    names: Mapping[int, str],
    expected: int,
    grid: Grid,
    progress: Progress,
    stop: Stop,
    close: Any,
) -> Outcome:
    # 1. The parent: the newest version, or the very first weights. Hospitals are coming meanwhile.
    from server.heap import settle
    from server.recording import Recorder

    recorder = Recorder(settings)
    parent, state = recorder.parent()
    settle()
    _log.info("%s", f"from {settings.model} version {parent.version}" if parent else "from the task's first weights")
    # 2. The rounds.
    reason = _train(settings, names, expected, grid, progress, (parent, state, recorder.champion), stop)
    stop.hurry_only()
    close()  # Hospitals need not wait for the registry.
    if progress.state is None:
        return Outcome(FAILED, f"{reason or 'no round was complete'}; nothing is registered")
    # 3. One version, or none.
    return _record(recorder, progress, parent, reason, stop)


def _train(
    settings: FederationSettings,
    names: Mapping[int, str],
    expected: int,
    grid: Grid,
    progress: Progress,
    models: tuple[ModelVersion | None, ModelState, Callable[[], ModelState | None]],
    stop: Stop,
) -> str:
    """Run the rounds from the parent, its weights and what finds the champion.

    Returns why they ended early, or nothing. What is complete is in the progress.
    """
    from flwr.app import Context, RecordDict

    from server.app import create_server_app
    from server.strategies import make_strategy

    parent, state, champion = models
    federation = Federation(
        _plan(settings, parent, state, expected),
        make_strategy(settings.spec, settings.strategy_options, settings.hyperparameters),
        state,
        progress,
        report_initial_loss=settings.spec.initial_loss,
        keep_all=settings.spec.needs_all,
        names=names,
        on_left_out=progress.leave_out,
        champion=champion,
    )
    if settings.spec.needs_all:
        _log.info("strategy %s compares answers: all of a round's are kept in memory", settings.spec.name)
    progress.follow(federation)
    try:
        create_server_app(federation)(grid, Context(grid.run.run_id, 0, {}, RecordDict(), {}))
    except TooFewHospitals:
        raise
    except FlopsError as error:
        if not progress.history:
            raise
        return f"ended after {len(progress.history)} of {settings.rounds} rounds: {error}"
    except (Exception, KeyboardInterrupt) as error:
        done = f"after {len(progress.history)} of {settings.rounds} rounds"
        if interruption(error) is not None:
            stop.asked.set()
            return f"stopped {done}"
        if not progress.history:
            raise
        _log.debug("a round failed", exc_info=True)
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return f"ended {done}: {problem} (a bug; --debug shows where)"
    return ""


def _plan(settings: FederationSettings, parent: ModelVersion | None, state: ModelState, expected: int) -> Plan:
    version = 0 if parent is None else parent.version
    contract = this_contract(settings.task, state.signature)
    return Plan(
        settings.task,
        settings.rounds,
        settings.hyperparameters,
        settings.fraction,
        job_seed(settings.seed, version),
        settle_statistics=parent is None,
        hospitals=settings.min_hospitals,
        timeout=settings.round_deadline,
        joining=Joining(settings.join_timeout, settings.join_grace, expected),
        tolerant=True,
        norm_ratio=settings.norm_ratio,
        entries={**contract_entries(contract), "model": settings.model, "model-version": version},
    )


def _record(recorder: Recorder, progress: Progress, parent: ModelVersion | None, reason: str, stop: Stop) -> Outcome:
    if progress.state is None:
        raise ValueError("there is no complete round")
    try:
        made, champion, gate = _within(
            stop,
            lambda: recorder.record(
                progress, parent, lambda: STOPPED_SECONDS if stop.asked.is_set() else RECORD_SECONDS
            ),
        )
    except FlopsError as error:
        return Outcome(FAILED, str(error))
    last = progress.history[-1].evaluation
    return Outcome(
        REGISTERED,
        "; ".join(part for part in (reason, gate) if part),
        version=made.version,
        parent=parent.version if parent else 0,
        rounds=len(progress.history),
        metrics={"loss": last.loss, **last.metrics} if last.examples else {},
        champion=champion,
    )


def _within(stop: Stop, work: Callable[[], _Result]) -> _Result:
    """Do work in a thread of its own; once the job is told to stop, it has little time left.

    A registry that accepts connections and never answers would hold the job for longer than a pod has.
    """
    done: list[_Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="registry")
    thread.start()
    told: float | None = None
    while thread.is_alive():
        thread.join(0.1)
        if stop.asked.is_set():
            told = told or time.monotonic()
            if time.monotonic() - told > STOPPED_SECONDS:
                raise FlopsError("stopped while the model registry did not answer; look whether it has a new version")
    if failed:
        raise failed[0]
    return done[0]
