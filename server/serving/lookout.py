"""The page's view of the registry: read aside, not by who asks, and kept while the registry is away."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl.errors import FlopsError
from server.serving.form import Form, make_form, typical
from server.serving.gathering import gather

if TYPE_CHECKING:
    from fl.tasks.base import Task
    from server.registry import Registry
    from server.serving.champion import Champion, Served
    from server.serving.overview import Overview

FRESH_SECONDS = 5.0
"""How long an overview is shown as it is."""

PATIENCE_SECONDS = 1.5
"""How long a request waits for a new overview before it shows the last one: a registry may be away for minutes."""

EXAMPLE_SECONDS = 4.0
"""How long the first request after a new task waits for example values: their library loads slowly."""

_log = logging.getLogger("flops.server.serving")


@dataclass(frozen=True)
class View:
    """What there is to show.

    Attributes:
        overview: of the registry, the last that could be read; None before the first.
        problem: why it is not a newer one; an empty text where all is well.
        served: what is loaded; None until there is one.
        form: to try that; None where nothing is.
    """

    overview: Overview | None
    problem: str
    served: Served | None
    form: Form | None


class Lookout:
    """Has a view of a champion's model; what is old is read again, in a thread, when somebody asks."""

    def __init__(self, champion: Champion) -> None:
        self._champion = champion
        self._registry: Registry | None = None
        self._overview: Overview | None = None
        self._problem = ""
        self._read_at = -math.inf
        self._form: tuple[Task, Form] | None = None
        self._lock = threading.Lock()
        self._reading: threading.Thread | None = None

    def look(self) -> View:
        """Return a view that is fresh, or the last one if that takes too long.

        Only who finds it old waits; the others get what there is, so that a registry that hangs holds one thread of
        the server's and not those that answer predictions.
        """
        served = self._champion.served
        reading: threading.Thread | None = None
        trying: threading.Thread | None = None
        with self._lock:
            old = time.monotonic() - self._read_at >= FRESH_SECONDS
            if old and not (self._reading is not None and self._reading.is_alive()):
                reading = self._reading = threading.Thread(target=self._read, daemon=True)
                reading.start()
            if served is not None and (self._form is None or not _same(self._form[0], served.predictor.task)):
                # The form is there at once, and better when the thread has ended.
                task = served.predictor.task
                self._form = (task, make_form(task))
                trying = threading.Thread(target=self._exemplify, args=(task,), daemon=True)
                trying.start()
        problem = ""
        if reading is not None:
            reading.join(PATIENCE_SECONDS)
            problem = "it takes long to answer" if reading.is_alive() else ""
        if trying is not None:
            trying.join(EXAMPLE_SECONDS)
        form = self._form[1] if served is not None and self._form is not None else None
        return View(self._overview, self._problem or problem, served, form)

    def _exemplify(self, task: Task) -> None:
        self._form = (task, make_form(task, typical(task)))

    def _read(self) -> None:
        from server.models import open_registry

        problem = ""
        try:
            if self._registry is None:
                self._registry = open_registry()
            self._overview = gather(self._registry, self._champion.model, self._champion.alias)
        except FlopsError as error:
            problem = str(error)
        except Exception as error:  # Whatever it is, the page shows what it has.
            problem = f"{type(error).__name__}: {error}"
            _log.debug("the page's overview could not be read", exc_info=True)
        self._problem = problem
        self._read_at = time.monotonic()


def _same(one: Task, other: Task) -> bool:
    return one is other or (one.name, one.reference, one.schema) == (other.name, other.reference, other.schema)
