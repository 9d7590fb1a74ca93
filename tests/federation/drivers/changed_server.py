"""A job of the global server to which the environment's BEHAVIOUR does one thing; else `flops server round …`."""

from __future__ import annotations

import importlib
import io
import os
import resource
import signal
import sys
import time
import zipfile
from pathlib import Path

import server.job
import server.recording
import server.superlink.link
from fl.appbundle import make_bundle
from fl.cli import entry

BEHAVIOUR, _, VALUE = os.environ["BEHAVIOUR"].partition("=")

EVIL = """
from pathlib import Path
Path({marker!r}).write_text("a server's code has run here")
"""


def evil_bundle():
    buffer = io.BytesIO(make_bundle())
    with zipfile.ZipFile(buffer, "a") as archive:
        for name in ("evil.py", "client/app.py", "../../evil.py"):
            archive.writestr(name, EVIL.format(marker=VALUE))
    return buffer.getvalue()


def hold_record(folder, seconds):
    """Say by a file that all rounds are done, and wait for another before anything is registered."""
    record = server.recording.Recorder.record

    def held(self, *arguments):
        (folder / f"reached-{os.getpid()}").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)
        return record(self, *arguments)

    server.recording.Recorder.record = held
    server.job.RECORD_SECONDS = float(seconds)


def stopped_in(module, name):
    """Have SIGTERM arrive when a function is called."""
    honest = getattr(importlib.import_module(module), name)

    def stopped(*arguments, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        return honest(*arguments, **named)

    setattr(sys.modules[module], name, stopped)


if BEHAVIOUR == "evil-bundle":
    server.superlink.link.make_bundle = evil_bundle
elif BEHAVIOUR == "hold-record":
    path, _, most = VALUE.partition(":")
    hold_record(Path(path), most)
elif BEHAVIOUR == "stopped-in":
    stopped_in(*VALUE.split(":"))
elif BEHAVIOUR == "small-files":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(VALUE), int(VALUE)))
elif BEHAVIOUR == "opens-for":
    server.recording.OPEN_SECONDS = float(VALUE)
else:
    raise SystemExit(f"no such behaviour: {BEHAVIOUR}")

if __name__ == "__main__":
    entry()
