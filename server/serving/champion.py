"""The model that is served: it follows the registry's champion, and stays where a newer one cannot be had."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl.errors import FlopsError

if TYPE_CHECKING:
    from fl.inference import Predictor
    from server.registry import ModelVersion, Registry

_log = logging.getLogger("flops.server.serving")


@dataclass(frozen=True)
class Served:
    """A version that is loaded.

    Attributes:
        version: which.
        predictor: the model.
    """

    version: ModelVersion
    predictor: Predictor


class Champion:
    """Looks for the champion in a thread of its own; who asks gets the one that is loaded, whole.

    Attributes:
        model: the registered model.
        alias: what names its champion.
        served: what is loaded; None until there is one.
        problem: why there is none, or why it is not the newest champion; an empty text where all is well.
    """

    def __init__(self, model: str, alias: str, seconds: float) -> None:
        self.model, self.alias, self._seconds = model, alias, seconds
        self._registry: Registry | None = None
        self.served: Served | None = None
        self.problem = "it has just started"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._over.set()

    def look(self) -> None:
        """Load the champion if it is another one than what is served.

        Raises:
            FlopsError: the registry does not answer, or the version does not load.
        """
        from fl.inference import Predictor
        from server.registry import Registry

        if self._registry is None:
            self._registry = Registry()
        found = self._registry.aliased(self.model, self.alias)
        if found is None:
            if self.served is None:
                raise FlopsError(
                    f"model {self.model} has no {self.alias} yet: a job of the global server makes one, once its "
                    "gate lets it pass"
                )
            return  # An alias that was taken away is no reason to answer nobody.
        if self.served is None or self.served.version.version != found.version:
            self.served = Served(found, Predictor(*self._registry.load(found)))
            _log.info("serves %s version %d", found.name, found.version)

    def _follow(self) -> None:
        while not self._over.is_set():
            try:
                self.look()
                problem = ""
            except FlopsError as error:
                problem = str(error)
            except Exception as error:  # Whatever it is, what is served goes on.
                problem = f"{type(error).__name__}: {error}"
            if problem and problem != self.problem:
                _log.warning("%s", problem)
            self.problem = problem
            self._over.wait(self._seconds)
