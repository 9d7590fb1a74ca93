from pathlib import Path

import pytest

from fl.data.schema import read_schema, schema_to_dict, table_schema_from_dict
from fl.errors import SettingsError

GOOD = """
site = "hospital"

[target]
column = "sepsis"
classes = ["no", "yes"]

[columns.age]
kind = "numeric"
min = 0
max = 120
missing = "mean"

[columns.ward]
kind = "categorical"
categories = ["icu", "general"]
missing = "most-frequent"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "schema.toml"
    path.write_text(text)
    return path


def test_reads_columns_in_the_order_of_the_file(tmp_path):
    schema = read_schema(write(tmp_path, GOOD))

    assert [column.name for column in schema.columns] == ["age", "ward"]
    assert schema.target == "sepsis"
    assert schema.classes == ("no", "yes")
    assert schema.site == "hospital"
    assert schema.width == 3


def test_survives_a_trip_through_plain_data(tmp_path):
    schema = read_schema(write(tmp_path, GOOD))

    assert table_schema_from_dict(schema_to_dict(schema)) == schema


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind = ", "knid = ", "columns.age.knid: unknown key (did you mean 'kind'?)"),
        ('"numeric"', '"numerical"', "unknown kind 'numerical' (did you mean 'numeric'?)"),
        ("categories =", "categorys =", "columns.ward.categorys: unknown key (did you mean 'categories'?)"),
        ("[target]", "[taget]", "taget: unknown key (did you mean 'target'?)"),
        ("min = 0", "min = 200", "columns.age: min 200 is above max 120"),
        ("max = 120", 'max = "old"', "columns.age.max: a number is needed"),
        ('"mean"', '"median"', "columns.age.missing: 'refuse', 'mean' or a number"),
        ('"most-frequent"', '"ICU"', "columns.ward.missing"),
        ('["no", "yes"]', '["no"]', "target.classes: at least 2 are needed"),
        ('["no", "yes"]', '["no", "no"]', "target.classes: a value stands twice"),
        ('"sepsis"', '"age"', "target.column: 'age' is also a feature column"),
        ('site = "hospital"', 'site = "sepsis"', "site: 'sepsis' is the target column"),
        ("[columns.age]", "[columns.age", "line 8"),
        ('"general"]', '"NA"]', "columns.ward.categories: 'NA' also means a missing value"),
        ('missing = "mean"', "missing = 130", "130 is outside the column's own range"),
    ],
)
def test_a_mistake_is_named_by_its_key(tmp_path, old, new, said):
    path = write(tmp_path, GOOD.replace(old, new, 1))

    with pytest.raises(SettingsError) as caught:
        read_schema(path)

    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_schema_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"nowhere\.toml: cannot be read: No such file"):
        read_schema(tmp_path / "nowhere.toml")
