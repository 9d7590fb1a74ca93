import numpy as np
import pytest

from fl.data.schema import Column, TableSchema
from fl.data.statistics import add_sums, column_sums, normalisation
from fl.errors import DataError

SCHEMA = TableSchema(
    (
        Column("age", "numeric", "mean"),
        Column("constant", "numeric"),
        Column("ward", "categorical", "most-frequent", categories=("icu", "general")),
    ),
    "y",
    ("a", "b"),
)


def test_federated_statistics_are_those_of_the_pooled_data():
    rng = np.random.default_rng(0)
    ages = rng.normal(1e6, 2.0, 300)
    wards = rng.random(300) < 0.3
    x = np.stack([ages, np.full(300, 0.1), wards, ~wards], axis=1).astype(float)
    x[::7, 0] = np.nan
    x[::5, 2:] = np.nan

    found = normalisation(add_sums(column_sums(part) for part in np.split(x, [10, 11, 150])), SCHEMA)

    known = x[~np.isnan(x[:, 0]), 0]
    np.testing.assert_allclose(found["statistics.mean"], [known.mean(), 0.1, 0, 0])
    np.testing.assert_allclose(found["statistics.std"], [known.std(), 1, 1, 1], rtol=1e-3)
    np.testing.assert_allclose(found["statistics.fill"], [known.mean(), 0.1, 0, 1])


def test_a_spread_that_is_small_beside_the_values_is_kept():
    seconds = np.random.default_rng(0).normal(1.7e9, 1000, 500)
    x = np.stack([seconds, np.ones(500), np.ones(500), np.zeros(500)], axis=1)

    found = normalisation(add_sums(column_sums(part) for part in np.split(x, 5)), SCHEMA)

    np.testing.assert_allclose(found["statistics.std"][0], seconds.std(), rtol=0.01)


def test_a_column_that_is_to_be_filled_and_that_nobody_has_is_refused():
    x = np.array([[np.nan, 1.0, 1.0, 0.0]])

    with pytest.raises(DataError, match="column 'age': no hospital has a value"):
        normalisation(column_sums(x), SCHEMA)
