import hashlib
import json
import math
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from client.receipts import Receipts, describe_arrays, newest, read, trained_today, verify
from fl.errors import FlopsError, SettingsError

NOON = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC)
TRAINED = {"kind": "train", "result": "done"}


class Clock:
    def __init__(self, now=NOON):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "receipts.jsonl"


@pytest.fixture
def six(path):
    """A file of six receipts."""
    receipts = Receipts(path, Clock())
    for number in range(6):
        receipts.append({**TRAINED, "round": number})
    return path


def head(path):
    return path.with_name(path.name + ".head")


def change(path, how):
    """Change the list of a file's lines, each with its end."""
    path.write_bytes(b"".join(how(path.read_bytes().splitlines(keepends=True))))


def said(path):
    return "; ".join(verify(path).problems)


def forged(line, **values):
    """Change a line and make its own checksum fit again."""
    entry = {**json.loads(line), **values}
    entry.pop("hash")

    def canonical():
        return json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    entry["hash"] = hashlib.sha256(canonical()).hexdigest()
    return canonical() + b"\n"


def test_an_entry_is_completed_and_chained(path):
    receipts = Receipts(path, Clock())
    first, second = receipts.append({**TRAINED, "round": 3}), receipts.append({"kind": "join"})

    lines = path.read_bytes().split(b"\n")
    assert [json.loads(line) for line in lines[:2]] == [first, second]
    assert lines[2:] == [b""]
    assert first["round"] == 3
    assert (first["number"], second["number"]) == (1, 2)
    assert first["time"] == "2026-03-01T12:00:00.000005Z"
    assert first["previous"] == "0" * 64
    assert second["previous"] == hashlib.sha256(lines[0]).hexdigest()
    assert forged(lines[0]) == lines[0] + b"\n"
    assert json.loads(head(path).read_bytes()) == {"number": 2, "hash": second["hash"]}


def test_the_files_are_for_their_owner_alone(path):
    before = os.umask(0)
    try:
        Receipts(path).append(TRAINED)
    finally:
        os.umask(before)

    for file in (path, head(path)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, head(path).name]


def test_times_are_utc_whatever_the_clock_says(path):
    east = Clock(NOON.astimezone(timezone(timedelta(hours=5))))

    assert Receipts(path, east).append({})["time"] == "2026-03-01T12:00:00.000005Z"


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (np.float32(np.inf), "inf"),
        (np.int64(3), 3),
        ((1, [math.nan]), [1, ["nan"]]),
        ("é\n\u2028", "é\n\u2028"),
        ("caf\udce9", "caf\\udce9"),
        (None, None),
    ],
)
def test_any_value_is_one_line_of_json(path, value, stored):
    Receipts(path).append({"reason": {"x": value}})

    (entry,) = read(path)
    assert entry["reason"] == {"x": stored}
    assert path.read_bytes().count(b"\n") == 1
    assert verify(path).problems == []


@pytest.mark.parametrize("key", ["number", "time", "previous", "hash"])
def test_the_chains_own_keys_are_not_the_callers(path, key):
    receipts = Receipts(path)

    with pytest.raises(ValueError, match=key):
        receipts.append({key: 1})
    assert path.read_bytes() == b""


def test_a_file_goes_on_when_it_is_opened_again(six):
    assert Receipts(six).append(TRAINED)["number"] == 7
    assert verify(six) == verify(six)
    assert (verify(six).entries, verify(six).problems) == (7, [])


def test_several_processes_append_to_one_chain(path):
    script = (
        "import sys; from pathlib import Path; from client.receipts import Receipts\n"
        "receipts = Receipts(Path(sys.argv[1]))\n"
        "for _ in range(40): receipts.append({'kind': 'train', 'pid': sys.argv[2], 'x': 'y' * 9000})"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, path, str(i)]) for i in range(3)]

    assert [process.wait() for process in running] == [0, 0, 0]
    assert (verify(path).entries, verify(path).problems) == (120, [])
    assert [entry["number"] for entry in read(path)] == list(range(1, 121))


@pytest.mark.parametrize("torn", [b'{"kind":"tr', b"\0" * 70_000, b"{}"])
def test_a_torn_line_is_set_aside_and_told(six, torn):
    whole = six.read_bytes()
    six.write_bytes(whole + torn)
    assert "the end is torn" in said(six)
    assert len(list(read(six))) == 6
    assert len(newest(six, 9)) == 6

    Receipts(six, Clock())

    assert verify(six).problems == []
    *before, told = read(six)
    assert len(before) == 6
    assert (told["kind"], told["number"]) == ("torn", 7)
    aside = six.with_name("receipts.jsonl.torn-20260301T120000.000005Z")
    assert aside.read_bytes() == torn
    assert f"{len(torn)} bytes moved to {aside.name}" in told["reason"]
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    assert six.read_bytes().startswith(whole)


def test_a_line_torn_by_another_process_is_set_aside_while_running(six):
    receipts = Receipts(six, Clock())
    with six.open("ab") as file:
        file.write(b"{")

    assert receipts.append(TRAINED)["number"] == 8
    assert verify(six).problems == []


def test_a_stop_between_the_two_writes_is_no_problem(six):
    behind = head(six).read_bytes()
    Receipts(six).append(TRAINED)
    head(six).write_bytes(behind)

    assert verify(six).problems == []
    assert Receipts(six).append(TRAINED)["number"] == 8
    assert verify(six).problems == []


def test_a_stop_between_the_first_two_writes_is_no_problem(path):
    Receipts(path).append(TRAINED)
    head(path).unlink()

    assert verify(path).problems == []
    assert Receipts(path).append(TRAINED)["number"] == 2
    assert verify(path).problems == []


@pytest.mark.parametrize(
    ("how", "problems"),
    [
        (lambda a: [*a[:2], a[2].replace(b"done", b"DONE"), *a[3:]], ["line 3: receipt 3 was changed"]),
        (lambda a: [*a[:2], a[2].replace(b'"round":2', b'"round": 2'), *a[3:]], ["line 3: receipt 3 was changed"]),
        (lambda a: [*a[:2], b"hello\n", *a[3:]], ["line 3: no receipt can be read from it"]),
        (
            lambda a: [*a[:2], forged(a[2], result="failed"), *a[3:]],
            ["line 4: receipt 4 does not continue the line above, or what was there"],
        ),
        (
            lambda a: [forged(a[0], previous="1" * 64), *a[1:]],
            [
                "line 1: receipt 1 does not continue the line above, or what was there",
                "line 2: receipt 2 does not continue the line above, or what was there",
            ],
        ),
        (lambda a: a[1:], ["line 1: receipt 1 is missing above it"]),
        (lambda a: [*a[:1], *a[4:]], ["line 2: receipts 2 to 4 are missing above it"]),
        (lambda a: [*a[:3], *a[2:]], ["line 4: receipt 3 is there already, in line 3"]),
        (lambda a: [*a[:1], a[2], a[1], *a[3:]], ["line 3: receipt 2 stands behind receipt 3"]),
        (lambda a: a[:4], ["at the end: receipts 5 to 6 are missing, the head file knows of more than there are"]),
        (
            lambda a: [*a[:5], forged(a[5], result="failed")],
            ["at the end: receipt 6 is not the one that the head file knows of"],
        ),
        (lambda a: [], ["at the end: receipts 1 to 6 are missing, the head file knows of more than there are"]),
    ],
)
def test_what_was_done_to_a_file_is_found(six, how, problems):
    assert verify(six).problems == []

    change(six, how)

    assert verify(six).problems == problems


def test_a_torn_middle_does_not_hide_what_follows(six):
    change(six, lambda a: [*a[:1], a[1][:20], *a[2:4], a[4].replace(b"done", b"none"), a[5]])

    assert verify(six).problems == [
        "line 2: no receipt can be read from it",
        "line 3: receipt 3 is missing above it",
        "line 4: receipt 5 was changed",
    ]


def test_a_missing_and_an_old_head_are_found(six):
    old = head(six).read_bytes()
    for _ in range(2):
        Receipts(six).append(TRAINED)
    head(six).write_bytes(old)
    assert verify(six).problems == ["at the end: the head file knows of 6 receipts alone, but there are 8"]

    head(six).unlink()
    assert "the head file is missing or cannot be read" in said(six)
    head(six).write_bytes(b"[]")
    assert "the head file is missing or cannot be read" in said(six)


def test_what_is_missing_stays_missing_when_the_node_goes_on(six):
    change(six, lambda a: a[:4])

    Receipts(six).append(TRAINED)

    assert [entry["number"] for entry in read(six)] == [1, 2, 3, 4, 7, 8]
    told = next(entry for entry in read(six) if entry["kind"] == "broken")
    assert "receipts 5 to 6 are missing" in told["reason"]
    assert "line 5: receipts 5 to 6 are missing above it" in verify(six).problems


def test_a_file_that_was_taken_away_is_missed(six):
    six.unlink()
    assert said(six) == "the file is missing, but receipts.jsonl.head is there"

    assert Receipts(six).append(TRAINED)["number"] == 8
    assert "receipts 1 to 6 are missing" in said(six)


def test_an_unreadable_last_line_does_not_stop_the_node(six):
    change(six, lambda a: [*a[:5], b"hello\n"])

    assert Receipts(six).append(TRAINED)["number"] == 7
    assert said(six) == "line 6: no receipt can be read from it"


def test_a_full_disk_leaves_the_file_as_it_was(six, monkeypatch):
    receipts, before, fsync = Receipts(six), six.read_bytes(), os.fsync
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:  # The entry is written by then, the head is not.
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FlopsError, match=r"receipts\.jsonl: cannot be written: No space left on device; free space"):
        receipts.append(TRAINED)
    assert six.read_bytes() == before

    assert receipts.append(TRAINED)["number"] == 7
    assert verify(six).problems == []


def test_half_a_write_is_taken_back(six, monkeypatch):
    receipts, before, write = Receipts(six), six.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:10]))

    with pytest.raises(FlopsError, match="No space left"):
        receipts.append(TRAINED)
    assert six.read_bytes() == before


def test_files_that_cannot_be_used_are_named(tmp_path):
    gone = tmp_path / "gone.jsonl"
    for use in (verify, lambda path: list(read(path)), lambda path: newest(path, 1)):
        with pytest.raises(SettingsError, match=r"gone\.jsonl: there is no such file"):
            use(gone)
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        list(read(tmp_path))
    with pytest.raises(FlopsError, match="cannot be written: Is a directory"):
        Receipts(tmp_path)
    gone.write_text('{"kind":"train"}\n')
    with pytest.raises(SettingsError, match=r"gone\.jsonl, line 1: no receipt"):
        list(read(gone))


def test_the_newest_are_read_from_the_end(path):
    receipts = Receipts(path)
    for number in range(30):
        receipts.append({"round": number, "x": "y" * (9_999 * (number % 4))})  # Lines that straddle the pieces read.

    assert [entry["round"] for entry in newest(path, 25)] == list(range(5, 30))
    assert newest(path, 99) == list(read(path))
    assert [entry["number"] for entry in newest(path, 99)] == list(range(1, 31))


def test_rounds_of_the_day_are_those_carried_out(path):
    clock = Clock(NOON - timedelta(days=1))
    receipts = Receipts(path, clock)
    assert trained_today(path, NOON) == 0
    receipts.append(TRAINED)
    clock.now = NOON.replace(hour=0, minute=0, second=0, microsecond=0)
    for entry in (TRAINED, {**TRAINED, "result": "refused"}, {**TRAINED, "kind": "evaluate"}, TRAINED):
        receipts.append(entry)

    assert trained_today(path, NOON) == 2
    assert trained_today(path, NOON.astimezone(timezone(timedelta(hours=13)))) == 2
    assert trained_today(path, NOON - timedelta(days=1)) == 1
    assert trained_today(path, NOON + timedelta(days=1)) == 0
    assert trained_today(path.with_name("gone"), NOON) == 0


def test_rounds_of_the_day_are_counted_from_the_end(path, monkeypatch):
    clock = Clock(NOON - timedelta(days=1))
    receipts = Receipts(path, clock)
    for _ in range(20):
        receipts.append({**TRAINED, "x": "y" * 20_000})
    clock.now = NOON
    receipts.append(TRAINED)
    taken, pread = [], os.pread
    monkeypatch.setattr(os, "pread", lambda *a: taken.append(a[1]) or pread(*a))

    assert trained_today(path, NOON) == 1
    assert sum(taken) < path.stat().st_size / 2


def test_arrays_are_described():
    arrays = {
        "w": np.array([[3, 4]], np.float32),
        "big": np.array([3e300, 4e300]),
        "bool": np.array([True, True, True, True]),
        "empty": np.zeros((0, 2)),
        "words": np.array(["a"]),
    }

    described = describe_arrays(arrays)

    assert described[0] == {"name": "w", "shape": [1, 2], "dtype": "float32", "bytes": 8, "norm": 5.0}
    assert [entry["norm"] for entry in described[1:]] == [pytest.approx(5e300), 2.0, 0.0, None]
    assert [entry["shape"] for entry in described[2:4]] == [[4], [0, 2]]


@pytest.mark.parametrize(("value", "stored"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "inf")])
def test_norms_that_are_not_finite_are_stored(path, value, stored):
    sent = describe_arrays({"w": np.array([1.0, value])})

    assert Receipts(path).append({"sent": sent})["sent"][0]["norm"] == stored
    assert verify(path).problems == []


def test_a_norm_is_summed_in_float64():
    array = np.full(1_000_001, 0.1, np.float16)

    assert describe_arrays({"w": array})[0]["norm"] == pytest.approx(float(np.float16(0.1)) * math.sqrt(array.size))


def test_the_command_shows_the_newest(flops, monkeypatch, tmp_path):
    monkeypatch.setenv("FLOPS_CLIENT_HOME", str(tmp_path / "home"))
    receipts = Receipts(tmp_path / "home" / "receipts.jsonl", Clock())
    receipts.append({"kind": "join", "result": "refused", "reason": "policy: [bold] \x1b[31m"})
    receipts.append(
        {
            **TRAINED,
            "round": 3,
            "model": {"name": "flops-digits", "version": 17},
            "server": {"commit": "0ab35c0" * 5},
            "sent": describe_arrays({"w": np.zeros(1000), "b": np.zeros(1)}),
            "examples": 123,
        }
    )

    shown = flops("client", "receipts").out.splitlines()
    row = next(line for line in shown if "train" in line).split()
    assert row == ["2", "2026-03-01", "12:00:00", "train", "3", "17", "0ab35c00ab35", "123", "8008", "done"]
    assert any("refused: policy: [bold] \ufffd[31m" in line for line in shown)

    (entry,) = flops("client", "receipts", "--last", 1, "--json").json["receipts"]
    assert entry["number"] == 2


def test_the_command_verifies(flops, six):
    ended = flops("client", "receipts", "--file", six, "--verify")
    assert (ended.code, ended.out) == (0, "6 receipts, chain whole\n")
    assert flops("client", "receipts", "--file", six, "--verify", "--json").json["problems"] == []

    change(six, lambda a: [a[0], *a[2:5]])

    ended = flops("client", "receipts", "--file", six, "--verify")
    assert ended.code == 1
    assert len(ended.out.splitlines()) == 2
    assert "line 2: receipt 2 is missing above it" in ended.out
    assert ended.line.startswith(f"receipts {six}: the chain is not whole, 2 problems;")
    ended = flops("client", "receipts", "--file", six, "--verify", "--json")
    assert ended.code == 1
    assert (ended.json["receipts"], len(ended.json["problems"])) == (4, 2)


def test_the_command_without_receipts(flops, here):
    for options in ((), ("--verify",), ("--json",)):
        ended = flops("client", "receipts", *options)
        assert ended.code == 2
        assert ended.line.startswith("receipts flops-client/receipts.jsonl: there is no such file")
    assert flops("client", "receipts", "--last", 0).code == 2

    Receipts(here / "flops-client" / "receipts.jsonl")
    assert "no receipts yet" in flops("client", "receipts").out
    assert flops("client", "receipts", "--verify").out == "0 receipts, chain whole\n"


def test_help_has_an_example(flops):
    ended = flops("client", "receipts", "--help")

    assert "Example: flops client receipts" in ended.out
    assert "--json" in ended.out
