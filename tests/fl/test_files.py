import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from fl.data.dataset import Dataset
from fl.data.files import read_examples, write_examples
from fl.data.schema import ArraySchema, Column, TableSchema
from fl.errors import DataError, SettingsError
from fl.tasks import find_task
from fl.tasks.tabular import tabular_task

DIGITS = find_task("digits")
CANCER = find_task("breast-cancer")
TABLE = TableSchema(
    columns=(
        Column("age", "numeric", "mean", 0, 120),
        Column("ward", "categorical", categories=("icu", "general")),
    ),
    target="sepsis",
    classes=("no", "yes"),
)
SITES = replace(TABLE, site="hospital")
REGRESSION = replace(DIGITS, schema=ArraySchema((2,), -np.inf, np.inf))


def npz(folder, **arrays):
    path = folder / "north.npz"
    np.savez(path, **arrays)
    return path


def images(**changes):
    """Twenty good images and their classes, and what a test changes of them."""
    x, y = np.full((20, 1, 8, 8), 0.5, dtype=np.float32), np.arange(20) % 10
    return {name: array for name, array in {"x": x, "y": y, **changes}.items() if array is not None}


def with_value(array, place, value):
    array = np.array(array, dtype=np.float64)
    array[place] = value
    return array


def refused(path, task):
    with pytest.raises(DataError) as caught:
        read_examples(path, task)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["digits", "breast-cancer"])
def test_what_is_written_reads_back_bit_for_bit(tmp_path, name):
    task = find_task(name)
    path = tmp_path / ("north.npz" if name == "digits" else "north.csv")
    data = task.load().take(np.arange(3, 60, 2))

    write_examples(path, data, task)
    again = read_examples(path, task)

    for before, after in ((data.x, again.x), (data.y, again.y)):
        assert before.dtype == after.dtype
        assert before.shape == after.shape
        assert before.tobytes() == after.tobytes()


def test_arrays_get_the_dtypes_that_the_task_uses(tmp_path):
    path = npz(tmp_path, x=np.ones((3, 1, 8, 8), dtype=np.uint8), y=np.array([0.0, 9.0, 3.0]))

    data = read_examples(path, DIGITS)

    assert (data.x.dtype, data.y.dtype) == (np.float32, np.int64)
    assert data.y.tolist() == [0, 9, 3]


def test_a_task_without_classes_takes_any_finite_target(tmp_path):
    data = read_examples(npz(tmp_path, x=np.ones((2, 2)), y=np.array([0.25, -7])), REGRESSION)

    assert data.y.dtype == np.float32
    assert data.y.tolist() == [0.25, -7]
    path = npz(tmp_path, x=np.ones((2, 2)), y=np.array([0.25, np.inf]))
    assert "array 'y', row 1 (counted from 0): inf is not a finite number" in refused(path, REGRESSION)
    assert "it holds <U1; numbers are needed" in refused(npz(tmp_path, x=np.ones((2, 2)), y=["a", "b"]), REGRESSION)
    path = npz(tmp_path, x=np.array([[1.0, 2.0], [1.0, 1e300]]), y=np.ones(2))
    assert "row 1 (counted from 0): the value at [1] is 1e+300, not a finite number" in refused(path, REGRESSION)


X, Y = images()["x"], images()["y"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": None}, "array 'x' is missing; the file has: y"),
        ({"x": None, "xs": X}, "array 'x' is missing (did you mean 'xs'?); the file has: y, xs"),
        ({"y": None}, "array 'y' is missing; the file has: x"),
        ({"patients": Y}, "array 'patients': no such array belongs here; only 'x' and 'y' do"),
        ({"x": X[:, 0]}, "array 'x': its shape is [20, 8, 8]; [examples, 1, 8, 8] is needed"),
        ({"x": np.float32(0)}, "array 'x': its shape is []; [examples, 1, 8, 8] is needed"),
        ({"x": X.astype(str)}, "array 'x': it holds <U32; numbers are needed"),
        ({"x": X > 0}, "array 'x': it holds bool; numbers are needed"),
        ({"x": X.astype(complex)}, "array 'x': it holds complex128; numbers are needed"),
        ({"x": X.astype(object)}, "array 'x': it holds Python objects, which can run code"),
        ({"x": X[:0], "y": Y[:0]}, "array 'x': it has no rows"),
        ({"x": X[:19]}, "array 'y': it has 20 rows and array 'x' has 19"),
        (
            {"x": with_value(X, (17, 0, 3, 5), 16)},
            "array 'x', row 17 (counted from 0): the value at [0, 3, 5] is 16, not a finite number from 0 to 1",
        ),
        ({"x": with_value(X, (0, 0, 0, 1), -0.1)}, "row 0 (counted from 0): the value at [0, 0, 1] is -0.1, not"),
        ({"x": with_value(X, (4, 0, 0, 0), np.nan)}, "row 4 (counted from 0): the value at [0, 0, 0] is nan, not"),
        ({"x": with_value(X, (4, 0, 0, 0), np.inf)}, "row 4 (counted from 0): the value at [0, 0, 0] is inf, not"),
        ({"y": Y[:, None]}, "array 'y': its shape is [20, 1]; one target an example is needed, shape [20]"),
        ({"y": np.int64(3)}, "array 'y': its shape is []"),
        ({"y": Y.astype(str)}, "array 'y': it holds <U21; needed is the index of a class"),
        ({"y": Y > 3}, "array 'y': it holds bool; needed is the index of a class"),
        ({"y": Y.astype(object)}, "array 'y': it holds Python objects"),
        ({"y": with_value(Y, 17, 10)}, "array 'y', row 17 (counted from 0): 10 is not the index of a class, a whole"),
        ({"y": with_value(Y, 2, -1)}, "array 'y', row 2 (counted from 0): -1 is not the index of a class"),
        ({"y": with_value(Y, 2, 3.5)}, "row 2 (counted from 0): 3.5 is not the index of a class, a whole"),
        ({"y": with_value(Y, 2, np.nan)}, "row 2 (counted from 0): nan is not the index of a class"),
        ({"y": Y.astype(np.uint64) + 2**63}, "row 0 (counted from 0): 9.22337e+18 is not the index of a class"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_named_by_file_array_and_row(tmp_path, changes, said):
    assert said in refused(npz(tmp_path, **images(**changes)), DIGITS)


def test_a_pickle_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    path = tmp_path / "north.npz"
    path.write_bytes(pickle.dumps(Trap()))
    assert "not an NPZ archive" in refused(path, DIGITS)

    assert "Python objects" in refused(npz(tmp_path, **images(x=np.array([Trap()], dtype=object))), DIGITS)


def test_what_is_no_archive_is_named(tmp_path):
    good = npz(tmp_path, **images()).read_bytes()
    path = tmp_path / "north.npz"

    path.write_bytes(b"")
    assert "the file is empty" in refused(path, DIGITS)
    path.write_text("x,y\n1,2\n")
    assert "not an NPZ archive (numpy.savez makes one), or a damaged one" in refused(path, DIGITS)
    path.write_bytes(good[: len(good) // 2])
    assert "not an NPZ archive" in refused(path, DIGITS)
    damaged = bytearray(good)
    damaged[len(good) // 3] ^= 255
    path.write_bytes(damaged)
    assert "array 'x': it cannot be read, the file is damaged" in refused(path, DIGITS)
    with path.open("wb") as file:
        np.save(file, X)
    assert "one bare array; an NPZ archive is needed" in refused(path, DIGITS)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "text")
        archive.writestr("y.npy", "text")
    assert "array 'x': it is no NumPy array" in refused(path, DIGITS)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "text")
        archive.writestr("x.npy", "text")
    assert "array 'x': the file holds it twice" in refused(path, DIGITS)
    with zipfile.ZipFile(path, "w"):
        pass
    assert "array 'x' is missing; the file has: none" in refused(path, DIGITS)


def test_a_header_that_claims_more_than_memory_holds_is_one_line(tmp_path):
    path = npz(tmp_path, **images())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["x.npy"] = members["x.npy"].replace(b"(20, 1, 8, 8), }  ", b"(2" + b"0" * 13 + b", 1, 8, 8), }", 1)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)

    assert "array 'x': it cannot be read" in refused(path, DIGITS)


def test_files_that_are_none_or_of_another_kind(tmp_path):
    assert "no such file" in refused(tmp_path / "absent.npz", DIGITS)
    csv = tmp_path / "north.csv"
    csv.write_text("x,y\n1,2\n")
    said = "task 'digits' learns from arrays: expected a .npz file with arrays 'x' (examples, 1, 8, 8) and 'y'"
    assert said in refused(csv, DIGITS)
    assert "expected a .npz file" in refused(tmp_path, DIGITS)
    text = tmp_path / "north.txt"
    text.write_text("x")
    assert "expected a .csv, .parquet or .npz file" in refused(text, CANCER)
    folder = tmp_path / "south.npz"
    folder.mkdir()
    assert "expected a .npz file" in refused(folder, DIGITS)


def table_arrays(**changes):
    columns = {
        "age": np.array([61.0, np.nan, 40.0]),
        "ward": np.array(["icu", "general", "icu"]),
        "sepsis": np.array(["yes", "no", "no"]),
        "note": np.array([1 + 2j, 0, 0]),  # No column's: whatever it is, nobody looks.
        **changes,
    }
    return {name: array for name, array in columns.items() if array is not None}


def test_a_table_reads_alike_from_csv_parquet_and_npz(tmp_path):
    task = tabular_task(TABLE)
    csv, parquet = tmp_path / "north.csv", tmp_path / "north.parquet"
    csv.write_text("age,ward,sepsis\n61,icu,yes\n,general,no\n40,icu,no\n")
    columns = {"age": [61, None, 40], "ward": ["icu", "general", "icu"], "sepsis": ["yes", "no", "no"]}
    pyarrow.parquet.write_table(pa.table(columns), parquet)

    for path in (csv, parquet, npz(tmp_path, **table_arrays())):
        data = read_examples(path, task)
        np.testing.assert_array_equal(data.x, [[61, 1, 0], [np.nan, 0, 1], [40, 1, 0]])
        assert data.y.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ward": None, "wrad": np.ones(3)}, "array 'ward': the column is missing (did you mean 'wrad'?)"),
        ({"age": np.array([61, 130, 4])}, "array 'age', row 1 (counted from 0): 130 is out of range (0 to 120)"),
        ({"age": np.array(["61", "old", "4"])}, "array 'age', row 1 (counted from 0): 'old' is not a number"),
        ({"age": np.array([True, False, True])}, "array 'age', row 0 (counted from 0): 'True' is not a number"),
        ({"age": np.ones((3, 1))}, "array 'age': its shape is [3, 1]; a column has one axis, the rows"),
        ({"age": np.ones(3, dtype=complex)}, "array 'age': it holds complex128; a column holds numbers or text"),
        ({"age": np.array([b"61", b"5", b"4"])}, "array 'age': it holds |S2; a column holds numbers or text (str)"),
        ({"age": np.array([61, None, 3], dtype=object)}, "array 'age': it holds Python objects"),
        ({"age": np.ones(2)}, "array 'age': it has 2 rows and 'sepsis' has 3"),
        ({"ward": np.array(["icu", "icv", "icu"])}, "row 1 (counted from 0): unknown category 'icv' (did you mean"),
        ({"ward": np.array(["icu", "", "icu"])}, "array 'ward', row 1 (counted from 0): the value is missing"),
        ({"sepsis": np.array(["yes", "no", "maybe"])}, "'sepsis', row 2 (counted from 0): unknown class 'maybe'"),
        ({"sepsis": np.array(["yes", "", "no"])}, "array 'sepsis', row 1 (counted from 0): the target is missing"),
        ({name: np.empty(0) for name in ("age", "ward", "sepsis")}, "array 'sepsis': it has no rows"),
    ],
)  # fmt: skip
def test_a_table_of_arrays_is_checked_like_any_table(tmp_path, changes, said):
    assert said in refused(npz(tmp_path, **table_arrays(**changes)), tabular_task(TABLE))


def test_errors_in_csv_stay_a_spreadsheets(tmp_path):
    path = tmp_path / "north.csv"
    path.write_text("age,ward,sepsis\n61,icu,yes\n130,general,no\n")

    assert "row 3, column 'age': 130 is out of range" in refused(path, tabular_task(TABLE))


@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_a_node_takes_one_hospital_alone(tmp_path, kind):
    def write(*names):
        if kind == "npz":
            return npz(tmp_path, **table_arrays(hospital=np.array(names)))
        path = tmp_path / "north.csv"
        path.write_text("hospital,age,ward,sepsis\n" + "".join(f"{name},61,icu,yes\n" for name in names))
        return path

    assert len(read_examples(write("A", "A", "A"), tabular_task(SITES))) == 3
    said = refused(write("B", "A", "B"), tabular_task(SITES))
    assert "column 'hospital'" in said or "array 'hospital'" in said
    assert "the file holds 2 hospitals (B, A), and a hospital's node takes its own examples alone" in said


def test_what_would_not_read_back_is_not_written_in_silence(tmp_path):
    x = np.ones((2, 1, 8, 8))
    path = tmp_path / "north.npz"

    with pytest.raises(SettingsError, match="a data file would not give the same x again: it has dtype float64"):
        write_examples(path, Dataset(x, np.zeros(2, dtype=np.int64)), DIGITS)
    with pytest.raises(SettingsError, match=r"its data does not fit its own schema: array 'x', row 0"):
        write_examples(path, Dataset(x.astype(np.float32) * 2, np.zeros(2, dtype=np.int64)), DIGITS)
    with pytest.raises(SettingsError, match="column 'ward' is categorical; only numeric columns can be written"):
        write_examples(tmp_path / "north.csv", Dataset(np.ones((2, 3)), np.zeros(2, int)), tabular_task(TABLE))


def test_a_table_with_gaps_a_site_and_awkward_names_is_written_whole(tmp_path):
    schema = TableSchema(
        (Column("age, years", "numeric", "mean"), Column('"crp"', "numeric")), "out", ("a,b", "c"), site="where"
    )
    task = tabular_task(schema)
    data = Dataset(np.array([[np.nan, 0.1], [-0.0, 1e-300], [1 / 3, 2.0**70]]), np.array([0, 1, 1]))

    write_examples(tmp_path / "north.csv", data, task)

    assert read_examples(tmp_path / "north.csv", task).x.tobytes() == data.x.tobytes()
