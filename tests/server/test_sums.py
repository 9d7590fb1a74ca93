"""Column sums that can be, and those that cannot."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fl.data.schema import Column, TableSchema
from fl.data.statistics import ColumnSums, column_sums
from server.sums import impossible, outlying

SCHEMA = TableSchema(
    (
        Column("age", "numeric", min=0, max=120),
        Column("ward", "categorical", categories=("icu", "general")),
        Column("dose", "numeric"),
    ),
    "sick",
    ("no", "yes"),
)


def table(rows, seed=0, dose=1.0):
    rng = np.random.default_rng(seed)
    ward = rng.integers(0, 2, rows)
    return np.column_stack([rng.uniform(20, 90, rows), ward == 0, ward == 1, dose * rng.lognormal(0, 1, rows)])


@given(
    arrays(np.float64, (7, 1), elements=st.floats(-1e150, 1e150) | st.just(np.nan)),
    st.integers(0, 120),
)
def test_the_sums_of_any_table_can_be(dose, age):
    rows = table(7)
    rows[:, 0] = age
    rows[:, 3:] = dose

    assert impossible(column_sums(rows), 7, SCHEMA) is None


def test_a_column_without_values_can_be():
    rows = table(5)
    rows[:] = np.nan

    assert impossible(column_sums(rows), 5, SCHEMA) is None


def changed(**columns):
    """Return the sums of a table, with one part of one feature changed."""
    sums = column_sums(table(10))
    for name, (feature, value) in columns.items():
        part = getattr(sums, name).copy()
        part[feature] = value
        sums = dataclasses.replace(sums, **{name: part})
    return sums


@pytest.mark.parametrize(
    ("sums", "reason"),
    [
        (changed(count=(0, 11.0)), "column 'age' has 11 values in 10 rows"),
        (changed(count=(2, -1.0)), "column 'ward' has -1 values in 10 rows"),
        (
            changed(total=(0, 1300.0), squares=(0, 170000.0)),
            "column 'age' is 130 on average, and the schema allows 0 to",
        ),
        (changed(total=(1, 20.0), squares=(1, 40.0)), "column 'ward' is 2 on average, and the schema allows 0 to 1"),
        (changed(squares=(3, -1.0)), "the squares of column 'dose' are too small"),
        (changed(total=(3, 1e6)), "the squares of column 'dose' are too small"),
        (changed(total=(3, np.nan)), "do not fit the schema"),
        (ColumnSums(np.zeros(3), np.zeros(3), np.zeros(3)), "do not fit the schema"),
        (ColumnSums(*(np.zeros(4, np.float32) for _ in range(3))), "do not fit the schema"),
    ],
)
def test_what_cannot_be_is_named(sums, reason):
    assert reason in impossible(sums, 10, SCHEMA)


def test_another_unit_is_found_and_names_the_column():
    found = {node: column_sums(table(30, node, 1e6 if node == 2 else 1.0)) for node in range(4)}

    (odd,) = outlying(found, SCHEMA).items()

    assert odd[0] == 2
    assert "column 'dose' is" in odd[1]
    assert "times as large as at the others (at most 1000); another unit?" in odd[1]


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_other_patients_are_no_other_unit(nodes):
    found = {node: column_sums(table(30, node, 10.0**node / 100)) for node in range(min(nodes, 4))}
    found[9] = column_sums(table(30) * [1, 1, 1, 0])

    assert outlying(found, SCHEMA) == {}
