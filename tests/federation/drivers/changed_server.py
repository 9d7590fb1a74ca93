"""A job of the global server to which the environment's BEHAVIOUR does one thing; `flops server round …` otherwise."""

from __future__ import annotations

import io
import os
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


if BEHAVIOUR == "evil-bundle":
    server.superlink.link.make_bundle = evil_bundle
elif BEHAVIOUR == "hold-record":
    path, _, most = VALUE.partition(":")
    hold_record(Path(path), most)
elif BEHAVIOUR == "opens-for":
    server.recording.OPEN_SECONDS = float(VALUE)
else:
    raise SystemExit(f"no such behaviour: {BEHAVIOUR}")

if __name__ == "__main__":
    entry()
