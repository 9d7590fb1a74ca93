import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from fl.data.schema import Column, TableSchema
from fl.data.table import read_sites, read_table
from fl.errors import DataError

SCHEMA = TableSchema(
    columns=(
        Column("age", "numeric", "mean", 0, 120),
        Column("crp", "numeric"),
        Column("ward", "categorical", "most-frequent", categories=("icu", "general")),
        Column("sex", "categorical", "category", categories=("f", "m")),
    ),
    target="sepsis",
    classes=("no", "yes"),
)
HEADER = "age,crp,ward,sex,sepsis\n"


def csv(folder, text, name="north.csv"):
    path = folder / name
    path.write_text(text)
    return path


def test_encodes_numbers_categories_and_missing_values(tmp_path):
    path = csv(tmp_path, HEADER + "61,3.5,icu,f,yes\n,4,NA,,no\n")

    data = read_table(path, SCHEMA)["north"]

    nan = np.nan
    np.testing.assert_array_equal(data.x, [[61, 3.5, 1, 0, 1, 0, 0], [nan, 4, nan, nan, 0, 0, 1]])
    np.testing.assert_array_equal(data.y, [1, 0])


def test_parquet_reads_like_csv(tmp_path):
    path = tmp_path / "north.parquet"
    table = pa.table(
        {"age": [61.0, None], "crp": [3, 4], "ward": ["icu", None], "sex": ["f", None], "sepsis": ["yes", "no"]}
    )
    pyarrow.parquet.write_table(table, path)

    from_csv = read_table(csv(tmp_path, HEADER + "61,3,icu,f,yes\n,4,NA,,no\n"), SCHEMA)["north"]

    np.testing.assert_array_equal(read_table(path, SCHEMA)["north"].x, from_csv.x)


def test_a_byte_order_mark_and_quoted_newlines_do_no_harm(tmp_path):
    path = tmp_path / "north.csv"
    path.write_text('\ufeffage,crp,ward,sex,sepsis,note\n61,3,icu,f,yes,"two\nlines"\n50,x,icu,f,no,\n')

    with pytest.raises(DataError, match=r"row 3, column 'crp': 'x' is not a number"):
        read_table(path, SCHEMA)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("age,crp,wrad,sex,sepsis\n1,1,icu,f,no\n", "column 'ward': the column is missing (did you mean 'wrad'?)"),
        (HEADER + "61,3,icu,f,yes\nold,3,icu,f,no\n", "row 3, column 'age': 'old' is not a number"),
        (HEADER + "61,3,icu,f,yes\n130,3,icu,f,no\n", "row 3, column 'age': 130 is out of range (0 to 120)"),
        (HEADER + "61,inf,icu,f,yes\n", "row 2, column 'crp': 'inf' is not a number"),
        (HEADER + "61,,icu,f,yes\n", "row 2, column 'crp': the value is missing"),
        (HEADER + "61,3,icv,f,yes\n", "row 2, column 'ward': unknown category 'icv' (did you mean 'icu'?)"),
        (HEADER + "61,3,icu,f,maybe\n", "row 2, column 'sepsis': unknown class 'maybe'"),
        (HEADER + "61,3,icu,f,\n", "row 2, column 'sepsis': the target is missing"),
        (HEADER, "the file has a header but no rows"),
        ("", "the file is empty"),
        ("\n", "the file has no header"),
        ("age,crp,age,sex,sepsis\n", "row 1, column 'age': the header names this column twice"),
        (HEADER + "61,3,icu,f,yes\n61,3,icu,f\n", "row 3: 4 values where the header has 5"),
        (HEADER + "61,3,icu,f,yes\n\n61,3,icu,f,no\n", "row 3: the row is empty; remove it"),
        (HEADER + "1_000,3,icu,f,yes\n", "row 2, column 'age': '1_000' is not a number"),
        (HEADER + "\uff11,3,icu,f,yes\n", "is not a number"),
        ("age,crp,ward,sex,sepsis,,\n", "row 1: column 6 has no name"),
        ("age;crp;ward;sex;sepsis\n61;3;icu;f;yes\n", "row 1: the values are not separated by commas"),
        (HEADER + '61,3,icu,f,yes\n"61,3,icu,f\n', "row 3: a quote that opens here is never closed"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_by_file_row_and_column(tmp_path, text, said):
    path = csv(tmp_path, text)

    with pytest.raises(DataError) as caught:
        read_table(path, SCHEMA)

    assert said in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_missing_words_count_whatever_stands_beside_them(tmp_path):
    schema = TableSchema((Column("crp", "numeric", "mean"),), "sepsis", ("0", "1"), missing_values=("-999",))
    path = tmp_path / "north.parquet"
    pyarrow.parquet.write_table(pa.table({"crp": [5.0, -999.0, None], "sepsis": [0.0, 1.0, 1.0]}), path)

    from_parquet = read_table(path, schema)["north"]
    from_csv = read_table(csv(tmp_path, "crp,sepsis\n5,0\n-999,1\n7,1\n"), schema)["north"]

    np.testing.assert_array_equal(from_parquet.x, [[5], [np.nan], [np.nan]])
    np.testing.assert_array_equal(from_parquet.y, [0, 1, 1])
    np.testing.assert_array_equal(from_csv.x, [[5], [np.nan], [7]])


def test_windows_line_ends_quotes_and_spaces_do_no_harm(tmp_path):
    path = csv(tmp_path, HEADER.replace("\n", "\r\n") + '"61", 3 ,"icu",f,yes\r\n5e1,+.5,icu,f,no\r\n\r\n')

    np.testing.assert_array_equal(read_table(path, SCHEMA)["north"].x[:, :2], [[61, 3], [50, 0.5]])


def test_not_utf8_is_named(tmp_path):
    path = tmp_path / "north.csv"
    path.write_bytes(HEADER.encode() + "61,3,icu,\xfc,yes\n".encode("latin-1"))

    with pytest.raises(DataError, match=r"north\.csv, row 2: not UTF-8 text"):
        read_table(path, SCHEMA)


def test_what_is_no_table_is_named(tmp_path):
    fake = tmp_path / "north.parquet"
    fake.write_text("no parquet")

    with pytest.raises(DataError, match="not a Parquet file"):
        read_table(fake, SCHEMA)
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "absent.csv", SCHEMA)
    with pytest.raises(DataError, match=r"expected a \.csv or \.parquet file"):
        read_table(tmp_path, SCHEMA)


def test_a_site_column_makes_one_site_a_name_in_order(tmp_path):
    schema = TableSchema((Column("crp", "numeric"),), "sepsis", ("no", "yes"), site="hospital")
    path = csv(tmp_path, "hospital,crp,sepsis\nB,1,no\nA,2,yes\nB,3,yes\n")

    sites = read_sites([path], schema)

    assert list(sites) == ["B", "A"]
    np.testing.assert_array_equal(sites["B"].x, [[1], [3]])


def test_one_class_in_all_data_is_refused_but_not_at_one_site(tmp_path):
    yes = csv(tmp_path, HEADER + "61,3,icu,f,yes\n", "a.csv")
    no = csv(tmp_path, HEADER + "61,3,icu,f,no\n", "b.csv")

    assert list(read_sites([yes, no], SCHEMA)) == ["a", "b"]
    with pytest.raises(DataError, match="column 'sepsis': the target has one class only, 'yes'"):
        read_sites([yes], SCHEMA)


def test_two_files_for_one_site_are_refused(tmp_path):
    (tmp_path / "x").mkdir()
    first, second = csv(tmp_path, HEADER + "1,1,icu,f,no\n"), csv(tmp_path / "x", HEADER + "1,1,icu,f,yes\n")

    with pytest.raises(DataError, match="hospital 'north' is already in"):
        read_sites([first, second], SCHEMA)
