"""The model that is served: it follows the registry's champion, and stays where a newer one cannot be had."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError
from server.serving.served import Served as Served
from server.serving.served import warm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fl.model import ModelState
    from fl.tasks.base import Task
    from server.registry import Registry
    from server.registry_names import ModelVersion
    from server.serving.ahead import Ahead

_log = logging.getLogger("flops.server.serving")

_LONGEST_WAIT = 60.0


class Champion:
    """Looks for the champion in a thread of its own; who asks gets the one that is loaded, whole.

    Attributes:
        model: the registered model.
        alias: what names its champion.
        served: what is loaded; None until there is one.
        problem: why there is none, or why it is not the newest champion; an empty text where all is well.
        answers: whether the registry did when it was last asked.
        failed: the version that is the champion and does not load; None where it does.
        loads: how many were loaded.
        failures: how many times one did not load.
    """

    def __init__(
        self,
        model: str,
        alias: str,
        seconds: float,
        registry: Registry | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        """Follow an alias.

        Args:
            model: the registered model.
            alias: what names its champion.
            seconds: how often to look.
            registry: if it is open already.
            ahead: what fetches the first version meanwhile.
        """
        self.model, self.alias, self._seconds = model, alias, seconds
        self._registry, self._ahead = registry, ahead
        self.served: Served | None = None
        self.problem = "it has just started, and the model is being loaded; try again in a few seconds"
        self.answers = False
        self.failed: int | None = None
        self.loads = self.failures = 0
        self._again = self._wait = self._asked = 0.0
        self._reason = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._over.set()
        if self._ahead is not None:
            self._ahead.stop()

    def look(self) -> None:
        """Load the champion if it is another one than what is served.

        Raises:
            FlopsError: the registry does not answer, or the version does not load.
        """
        found = self._find()
        if found is None:
            self.failed = None
            if self.served is None:
                raise FlopsError(
                    f"model {self.model} has no {self.alias} yet: a job of the global server makes one, once its "
                    "gate lets it pass"
                )
            # An alias that was taken away is no reason to answer nobody, and is told.
            there = self.served.version.version
            raise FlopsError(f"model {self.model} has no {self.alias} any more; version {there} goes on answering")
        if self.served is not None and self.served.version.version == found.version:
            self.failed = None
            self._look_for_lineage(self.served)
            return
        if self.failed == found.version and time.monotonic() < self._again:
            raise FlopsError(self._reason)  # What does not load is not fetched every few seconds.
        self._load(found)

    def _look_for_lineage(self, there: Served) -> None:
        """Fetch what could not be read when the version was loaded, but not every few seconds."""
        from server.models import lineage_if_any

        if there.lineage is None and self._registry is not None and time.monotonic() >= self._asked:
            self._asked = time.monotonic() + _LONGEST_WAIT
            self.served = replace(there, lineage=lineage_if_any(self._registry, there.version))

    def _find(self) -> ModelVersion | None:
        from server.models import open_registry

        try:
            if self._registry is None:
                self._registry = open_registry()
            found = self._registry.aliased(self.model, self.alias)
        except BaseException:
            self.answers = False
            raise
        self.answers = True
        return found

    def _load(self, found: ModelVersion) -> None:
        from server.models import lineage_if_any

        assert self._registry is not None  # noqa: S101 - it was just asked
        try:
            self._serve(found, *self._registry.load(found), lineage_if_any(self._registry, found))
        except Exception as error:
            self._wait = min(_LONGEST_WAIT, 2 * self._wait) if self.failed == found.version else self._seconds
            self.failed, self._again = found.version, time.monotonic() + self._wait
            self.failures += 1
            self._reason = (
                f"{found.name} version {found.version} is the {self.alias} and cannot be loaded: {_told(error)}"
            )
            raise FlopsError(self._reason) from error

    def _serve(self, version: ModelVersion, task: Task, state: ModelState, told: Mapping[str, Any] | None) -> None:
        from fl.inference import Predictor

        predictor = Predictor(task, state)
        self.served, self.failed = replace(warm(version, predictor), lineage=told), None
        self.loads += 1
        _log.info("serves %s version %d", version.name, version.version)

    def _begin(self) -> None:
        """Serve what was fetched meanwhile; where that is nothing, the first look says why."""
        if self._ahead is None:
            return
        import fl.inference  # noqa: F401 - takes as long as the other process does

        with self._ahead, contextlib.suppress(Exception):
            found = self._ahead.take()
            if found is not None:
                self._serve(*found)
                self.answers, self.problem = True, ""
                self._over.wait(self._seconds)

    def _follow(self) -> None:
        self._begin()
        while not self._over.is_set():
            try:
                self.look()
                problem = ""
            except Exception as error:  # Whatever it is, what is served goes on.
                problem = _told(error)
            if problem and problem != self.problem:
                _log.warning("%s", problem)
            self.problem = problem
            self._over.wait(self._seconds)


def _told(error: Exception) -> str:
    told = str(error) if isinstance(error, FlopsError) else f"{type(error).__name__}: {error}"
    return " ".join(told.split())
