"""The page's view of the registry: read aside, not by who asks, and kept while the registry is away."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl.errors import FlopsError
from server.serving.form import Form, make_form
from server.serving.overview import Overview, gather

if TYPE_CHECKING:
    from server.registry import Registry
    from server.serving.champion import Champion, Served

FRESH_SECONDS = 5.0
"""How long an overview is shown as it is."""

PATIENCE_SECONDS = 1.5
"""How long a request waits for a new overview before it shows the last one: a registry may be away for minutes."""

_log = logging.getLogger("flops.server.serving")


@dataclass(frozen=True)
class View:
    """What there is to show.

    Attributes:
        overview: of the registry, the last that could be read; None before the first.
        problem: why it is not a newer one; an empty text where all is well.
        served: what is loaded; None until there is one.
        form: to try that; None where nothing is loaded, or the form is still being made.
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
        self._form: tuple[Served | None, Form | None] = (None, None)
        self._read_at = -FRESH_SECONDS
        self._lock = threading.Lock()
        self._reading: threading.Thread | None = None

    def look(self) -> View:
        """Return a view that is fresh, or the last one if that takes too long.

        Only who finds it old waits; the others get what there is, so that a registry that hangs holds one thread of
        the server's and not those that answer predictions.
        """
        mine: threading.Thread | None = None
        with self._lock:
            if (self._reading is None or not self._reading.is_alive()) and self._old():
                mine = self._reading = threading.Thread(target=self._read, daemon=True)
                mine.start()
        problem = ""
        if mine is not None:
            mine.join(PATIENCE_SECONDS)
            if mine.is_alive():
                problem = "the model registry takes long to answer"
        served, (made_for, form) = self._champion.served, self._form
        return View(self._overview, self._problem or problem, served, form if made_for is served else None)

    def _old(self) -> bool:
        return time.monotonic() - self._read_at >= FRESH_SECONDS or self._form[0] is not self._champion.served

    def _read(self) -> None:
        from server.models import open_registry

        served = self._champion.served
        if self._form[0] is not served:
            self._form = (served, None if served is None else make_form(served.predictor.task))
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
