"""Logs of what runs for long: a line with the time for people, or a JSON object for machines."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from datetime import UTC, datetime


class _People(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # What another side says must not look like a line of ours, or steer a terminal.
        said = record.getMessage()
        if not said.isprintable():
            said = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in said)
        text = f"{_time(record, '%H:%M:%S')} {said}"
        return text if record.exc_info is None else f"{text}\n{self.formatException(record.exc_info)}"


class _Machines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {"time": _time(record, "%Y-%m-%dT%H:%M:%SZ"), "level": record.levelname.lower()}
        return json.dumps({**fields, "message": record.getMessage(), **getattr(record, "fields", {})})


def _time(record: logging.LogRecord, layout: str) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime(layout)


def log_to_people(
    name: str, *, as_json: bool = False, to_output: bool = False, debug: bool = False, warnings_only: bool = False
) -> None:
    """Send a logger's lines to standard error; libraries' lines in debug alone.

    Args:
        name: the logger.
        as_json: one object a line.
        to_output: to standard output, for a command that prints nothing else.
        debug: also what is for developers, and what libraries say.
        warnings_only: nothing below a warning, unless in debug.
    """
    handler = logging.StreamHandler(sys.stdout if to_output else sys.stderr)
    handler.setFormatter(_Machines() if as_json else _People())
    ours = logging.getLogger(name)
    ours.handlers[:] = [handler]
    ours.setLevel(logging.DEBUG if debug else logging.WARNING if warnings_only else logging.INFO)
    ours.propagate = False
    if not debug:
        # Levels do not help: libraries set them when they are imported, and some reset those of others.
        logging.getLogger("flwr").addFilter(lambda _: False)
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        warnings.simplefilter("ignore")
