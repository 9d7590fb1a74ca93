"""`flops deal`: files that hold, bit for bit, what a federation on one machine gives each hospital."""

import sys

import numpy as np
import pytest

from fl.data.files import read_examples
from fl.data.partition import deal, parse_partition
from fl.tasks import find_task

OWN = """
from dataclasses import replace
import numpy as np
from fl.data.dataset import Dataset
from fl.data.schema import ArraySchema, Column, TableSchema
from fl.tasks.digits import digits

print("loaded")

def numbers():
    x = np.random.default_rng(0).random((60, 4), dtype=np.float32)
    return Dataset(x, x.sum(axis=1))

def broken():
    raise OSError("the disk is gone")

regression = replace(digits, name="mine", schema=ArraySchema((4,), 0, 1), load=numbers)
loadless = replace(regression, load=None)
unloadable = replace(regression, load=broken)
uneven = replace(regression, load=lambda: Dataset(np.zeros((3, 4), np.float32), np.zeros(2, np.float32)))
double = replace(regression, load=lambda: Dataset(np.zeros((9, 4)), np.zeros(9, np.float32)))
outside = replace(regression, load=lambda: Dataset(np.full((9, 4), 2, np.float32), np.zeros(9, np.float32)))
words = replace(
    regression,
    schema=TableSchema((Column("ward", "categorical", categories=("icu", "general")),), "sepsis", ("no", "yes")),
    load=lambda: Dataset(np.zeros((9, 2)), np.zeros(9, np.int64)),
)
"""


@pytest.fixture
def own(here, monkeypatch):
    (here / "own_deal.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.delitem(sys.modules, "own_deal", raising=False)


@pytest.mark.parametrize(
    ("name", "how", "clients", "kind"),
    [("digits", "iid", 10, "npz"), ("breast-cancer", "dirichlet:0.3", 4, "csv"), ("digits", "unequal:1", 3, "npz")],
)
def test_dealt_files_read_back_what_was_dealt_bit_for_bit(flops, here, name, how, clients, kind):
    task, folder = find_task(name), here / "hospitals"
    ended = flops("deal", name, "--clients", clients, "--partition", how, "--seed", 5, "--out", folder, "--json")

    whole = task.load()
    parts = deal(parse_partition(how), whole.y, clients, 5)
    names = [f"hospital-{i:0{len(str(clients))}}.{kind}" for i in range(1, clients + 1)]
    assert ended.json == {
        **{"task": name, "clients": clients, "partition": how, "seed": 5, "out": str(folder)},
        "files": [{"file": str(folder / n), "examples": len(part)} for n, part in zip(names, parts, strict=True)],
    }
    assert sorted(path.name for path in folder.iterdir()) == names
    for file, part in zip(names, parts, strict=True):
        read, dealt = read_examples(folder / file, task), whole.take(part)
        assert (read.x.dtype, read.y.dtype) == (dealt.x.dtype, dealt.y.dtype)
        assert (read.x.shape, read.x.tobytes()) == (dealt.x.shape, dealt.x.tobytes())
        assert read.y.tobytes() == dealt.y.tobytes()


def test_a_hospital_gets_what_a_federation_on_one_machine_gives_it(flops, here):
    from server.simulation.settings import settle
    from server.simulation.sites import make_sites

    options = {"clients": 4, "partition": "dirichlet:0.3", "seed": 2}
    flops("deal", "breast-cancer", *(word for name, value in options.items() for word in (f"--{name}", value)))
    task, settings = settle("breast-cancer", **options)

    for site in make_sites(task, settings):
        read = read_examples(here / "flops-out" / "breast-cancer-data" / f"{site.name}.csv", task)
        kept = np.concatenate([site.train.x, site.holdout.x])
        assert sorted(map(tuple, kept)) == sorted(map(tuple, read.x))


def test_people_see_files_numbers_and_what_a_hospital_needs(flops, here):
    ended = flops("deal", "digits", "--clients", 2)

    assert ended.code == 0
    for words in ("flops-out/digits-data/hospital-1.npz", "899", "898", "nothing but the task's name, digits"):
        assert words in ended.out


def test_tables_are_written_with_the_schemas_columns_and_class_names(flops, here):
    flops("deal", "breast-cancer", "--clients", 2, "--out", "cut")

    header, first, *_ = (here / "cut" / "hospital-1.csv").read_text().splitlines()
    assert header.startswith("mean radius,mean texture,")
    assert header.endswith(",worst fractal dimension,diagnosis")
    assert first.endswith((",malignant", ",benign"))


def test_nothing_is_overwritten_without_force(flops, here):
    assert flops("deal", "digits", "--clients", 3, "--out", "cut").code == 0
    before = (here / "cut" / "hospital-1.npz").read_bytes()

    ended = flops("deal", "digits", "--clients", 3, "--seed", 1, "--out", "cut")
    assert ended.code == 2
    assert "--out cut: hospital-1.npz and 2 more are there already; --force overwrites" in ended.line
    assert (here / "cut" / "hospital-1.npz").read_bytes() == before

    assert flops("deal", "digits", "--clients", 3, "--seed", 1, "--out", "cut", "--force").code == 0
    assert (here / "cut" / "hospital-1.npz").read_bytes() != before


def test_files_of_another_deal_are_never_mixed_with_new_ones(flops, here):
    flops("deal", "digits", "--clients", 3, "--out", "cut")
    before = {path: path.read_bytes() for path in (here / "cut").iterdir()}

    ended = flops("deal", "digits", "--clients", 2, "--out", "cut", "--force")

    assert ended.code == 2
    assert "hospital-3.npz is there from another deal and would not be overwritten; remove what is not" in ended.line
    assert {path: path.read_bytes() for path in (here / "cut").iterdir()} == before


def test_a_deal_that_fails_leaves_no_file(flops, here, monkeypatch):
    from fl.data import dealing

    write = dealing.write_examples

    def full(path, data, task):
        if path.name == "hospital-2.npz":
            raise OSError(28, "No space left on device")
        write(path, data, task)

    monkeypatch.setattr(dealing, "write_examples", full)
    ended = flops("deal", "digits", "--clients", 3, "--out", "cut")

    assert ended.code == 2
    assert ended.line == "--out cut: cannot be written: No space left on device"
    assert list((here / "cut").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing argument 'TASK'"),
        (("digitz",), "unknown task 'digitz' (did you mean 'digits'?)"),
        (("tabular",), "task 'tabular' has no data of its own to deal; its hospitals bring their own files"),
        (("digits", "--clients", 0), "--clients 0: at least 1 hospital is needed"),
        (("digits", "--clients", -3), "--clients -3: at least 1 hospital is needed"),
        (("digits", "--clients", 1798), "1798 clients cannot share 1797 examples"),
        (("digits", "--clients", "many"), "'many' is not a valid integer"),
        (("digits", "--partition", "dirichelt:1"), "did you mean 'dirichlet'?"),
        (("digits", "--partition", "dirichlet:0"), "alpha must be a number above 0"),
        (("digits", "--partition", "natural"), "task 'digits' does not say which hospital an example is from"),
        (("digits", "--seed", -1), "--seed -1: a whole number from 0"),
        (("digits", "--out", "taken"), "--out taken: this is a file; name a folder"),
        (("digits", "--out", "taken/below"), "--out taken/below: cannot be written: Not a directory"),
        (("own_deal:loadless",), "task 'mine' has no data of its own to deal"),
        (("own_deal:unloadable",), "its data cannot be loaded: OSError: the disk is gone"),
        (("own_deal:uneven",), "its data cannot be loaded: ValueError: 3 examples and 2 targets"),
        (("own_deal:double", "--clients", 3), "a data file would not give the same x again: it has dtype float64"),
        (("own_deal:outside", "--clients", 3), "its data does not fit its own schema: array 'x', row 0"),
        (("own_deal:words", "--clients", 3), "column 'ward' is categorical; only numeric columns can be written"),
        (("own_deal:regression", "--partition", "dirichlet"), "skews classes, and this task has none"),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_no_file(flops, here, own, arguments, said):
    (here / "taken").write_text("a file")

    ended = flops("deal", *arguments)

    assert ended.code == 2
    assert said in ended.line
    assert ended.out == ""
    assert not list(here.rglob("hospital-*"))


def test_a_task_of_ones_own_without_classes(flops, here, own):
    result = flops("deal", "own_deal:regression", "--clients", 2, "--json").json

    assert result["out"] == "flops-out/own_deal-regression-data"
    assert [file["examples"] for file in result["files"]] == [30, 30]
    data = read_examples(here / result["files"][0]["file"], find_task("own_deal:regression"))
    np.testing.assert_array_equal(data.y, data.x.sum(axis=1))
