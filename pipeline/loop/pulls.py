"""Images are fetched beside the loop, so that a slow registry holds up nothing but what waits for the image."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from fl.errors import FlopsError
from pipeline.engine import ENGINE_ERRORS, engine, pull

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.settings import Secrets

_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0


class Pulls:
    """Which images are here, which are under way, and why others are not."""

    def __init__(self, secrets: Secrets, say: Callable[[str], None]) -> None:
        self._secrets, self._say = secrets, say
        self._here: set[str] = set()
        self._under_way: set[str] = set()
        self._failed: dict[str, tuple[str, float, float]] = {}
        self._lock = threading.Lock()

    def ready(self, image: str) -> bool:
        """Tell whether an image is here; where it is not, have it fetched."""
        with self._lock:
            if image in self._here:
                return True
            _, again, _ = self._failed.get(image, ("", 0.0, 0.0))
            if image not in self._under_way and time.monotonic() >= again:
                self._under_way.add(image)
                threading.Thread(target=self._fetch, args=(image,), daemon=True).start()
        return False

    def problem(self, image: str) -> str:
        """Return why an image could not be fetched; an empty text where nothing is known against it."""
        with self._lock:
            return self._failed.get(image, ("", 0.0, 0.0))[0]

    def problems(self) -> list[str]:
        """Return why images could not be fetched."""
        with self._lock:
            return [f"image {image}: {problem}" for image, (problem, _, _) in self._failed.items()]

    def keep(self, images: Sequence[str]) -> None:
        """Forget what was wrong with images that nobody wants any more."""
        with self._lock:
            self._failed = {image: told for image, told in self._failed.items() if image in images}

    def forget(self) -> None:
        """Ask the engine anew: it was away, or an image was removed."""
        with self._lock:
            self._here.clear()

    def _fetch(self, image: str) -> None:
        problem = ""
        try:
            with engine() as client:
                pull(client, image, image.partition("/")[0], self._secrets)
        except FlopsError as error:
            problem = str(error)
        except ENGINE_ERRORS as error:
            problem = " ".join(str(error).split())
        with self._lock:
            self._under_way.discard(image)
            if not problem:
                self._here.add(image)
                known = self._failed.pop(image, None)
            else:
                known = self._failed.get(image)
                pause = min(2 * known[2], _LONGEST_PAUSE) if known else _FIRST_PAUSE
                self._failed[image] = (problem, time.monotonic() + pause, pause)
        if problem and (known is None or known[0] != problem):
            self._say(f"image {image}: {problem}; it is tried again")
        elif not problem and known is not None:
            self._say(f"image {image}: is here now")
