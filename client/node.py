"""The hospital's node: waits for a server, works for it while it lasts, and waits for the next."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from client.link import Link, NotAdmitted, NotUnderstood, ServerGone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from client.answering import Answering

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 1.2
"""Seconds between two looks for a server: doubled from the first to the longest, give or take a fifth. A look is a
TCP handshake; a server must be found within three seconds of its start."""

REFUSED_PAUSE = 2.0
"""Seconds between two tries at a server that does not let this node in: the next one may, and may come soon."""

STATE_SECONDS = 10.0
"""How often the state file is renewed while all is well."""

_log = logging.getLogger("flops.client")


class Node:
    """Joins server after server until it is stopped."""

    def __init__(self, make_link: Callable[[], Link], answering: Answering, server: str, state_file: Path) -> None:
        self._make_link, self._answering = make_link, answering
        self._server = server
        self._state = StateFile(state_file)
        self._said, self._waiting_said = "", False

    def run(self) -> None:
        """Wait and work for ever; ends with what interrupts it, or with what only a person can mend."""
        try:
            while True:
                self._state.set("waiting", self._server)
                link = self._meet()
                try:
                    self._state.set("joined", self._server)
                    self._serve(link)
                except ServerGone as error:
                    self._say(f"{self._server} is gone ({error}); waiting for the next server")
                    self._waiting_said = True
                except NotUnderstood as error:
                    self._say(f"{self._server} is not understood: {error}; trying again")
                    time.sleep(REFUSED_PAUSE * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
                finally:
                    link.leave()
        finally:
            self._state.close()

    def _meet(self) -> Link:
        """Return a link to a server that let this node in."""
        pause = FIRST_PAUSE
        while True:
            try:
                link = self._join()
            except ServerGone as error:
                if error.untrusted or not self._waiting_said:
                    self._say(f"{self._server} is not there ({error}); waiting for it")
                    self._waiting_said = True
                wait, pause = pause, min(2 * pause, LONGEST_PAUSE)
            except NotAdmitted as error:
                self._say(f"{self._server} does not let this hospital in: {error}; trying again")
                wait = REFUSED_PAUSE
            else:
                self._say(f"joined {self._server}")
                self._waiting_said = False
                return link
            time.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - jitter

    def _join(self) -> Link:
        link = self._make_link()
        try:
            link.join()
        except BaseException:
            link.leave()
            raise
        return link

    def _serve(self, link: Link) -> None:
        while True:
            work = link.ask()
            if work is not None:
                self._answering.answer(link, work)

    def _say(self, text: str) -> None:
        """Log what is new, once."""
        if text != self._said:
            self._said = text
            _log.info("%s", text)


class StateFile:
    """What the node does, in a file that a health check reads: renewed for as long as the process lives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._now = {"state": "starting", "server": ""}
        self._changed, self._closed = threading.Event(), False
        self._thread = threading.Thread(target=self._renew, daemon=True, name="state")
        self._thread.start()

    def set(self, state: str, server: str) -> None:
        """Say what the node does now."""
        self._now = {"state": state, "server": server}
        self._changed.set()

    def close(self) -> None:
        """Say that the node has stopped."""
        self._closed = True
        self.set("stopped", self._now["server"])
        self._thread.join(2)

    def _renew(self) -> None:
        while True:
            stamp = datetime.now(UTC).isoformat(timespec="seconds")
            draft = self._path.with_suffix(".new")
            try:
                draft.write_text(json.dumps({**self._now, "time": stamp}) + "\n", encoding="utf-8")
                draft.replace(self._path)
            except OSError:
                _log.debug("the state file cannot be written", exc_info=True)
            if self._closed:
                return
            self._changed.wait(STATE_SECONDS)
            self._changed.clear()
