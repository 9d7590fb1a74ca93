import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.data.dataset import Dataset, split_site
from fl.data.partition import deal, parse_partition
from fl.errors import SettingsError

LABELS = np.random.default_rng(1).integers(0, 10, 500)


@given(
    how=st.sampled_from(["iid", "dirichlet:0.001", "dirichlet:0.3", "dirichlet:100", "unequal", "unequal:3"]),
    clients=st.integers(1, 60),
    examples=st.integers(60, 300),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=60)
def test_every_example_has_one_owner_and_nobody_is_empty(how, clients, examples, seed):
    parts = deal(parse_partition(how), LABELS[:examples], clients, seed)

    assert len(parts) == clients
    assert all(len(part) for part in parts)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(examples))


def test_the_seed_fixes_the_deal():
    how = parse_partition("dirichlet:0.3")

    first, again, other = (deal(how, LABELS, 7, seed) for seed in (3, 3, 4))

    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_small_alpha_skews_labels_and_a_large_one_does_not():
    def largest_share(alpha):
        parts = deal(parse_partition(f"dirichlet:{alpha}"), LABELS, 5, 0)
        return np.mean([np.bincount(LABELS[part], minlength=10).max() / len(part) for part in parts])

    assert largest_share(0.1) > 2 * largest_share(100)


def test_iid_sizes_differ_by_one_and_unequal_ones_by_much():
    even = [len(part) for part in deal(parse_partition("iid"), LABELS, 7, 0)]
    uneven = [len(part) for part in deal(parse_partition("unequal:1"), LABELS, 7, 0)]

    assert max(even) - min(even) <= 1
    assert max(uneven) > 3 * min(uneven)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dirichlet:0", "alpha must be a number above 0"),
        ("dirichlet:-1", "alpha must be a number above 0"),
        ("dirichlet:x", "alpha must be a number above 0"),
        ("unequal:nan", "sigma must be a number above 0"),
        ("unequal:1e300", "at most 10, for example"),
        ("dirichlet:1e7", "at most 1e+06, for example"),
        ("iid:3", "partition 'iid' takes no number"),
        ("dirichelt:1", "did you mean 'dirichlet'?"),
    ],
)
def test_a_wrong_partition_says_what_is_right(text, said):
    with pytest.raises(SettingsError) as caught:
        parse_partition(text)

    assert said in str(caught.value)


def test_more_clients_than_examples_are_refused():
    with pytest.raises(SettingsError, match="501 clients cannot share 500 examples"):
        deal(parse_partition("iid"), LABELS, 501, 0)


def rows(*values):
    return Dataset(np.array(values, dtype=float)[:, None], np.zeros(len(values), dtype=np.int64))


@pytest.mark.parametrize("examples", [1, 2, 3, 10, 1000])
def test_a_site_trains_on_one_example_at_least_and_holds_out_about_a_fifth(examples):
    site = split_site("north", rows(*range(examples)), seed=0)

    assert len(site.train) >= 1
    assert len(site.holdout) >= (examples > 1)
    assert sorted([*site.train.x[:, 0], *site.holdout.x[:, 0]]) == list(range(examples))
    if examples == 1000:
        assert 160 < len(site.holdout) < 240


def test_an_example_stays_held_out_when_others_come_or_move():
    before = split_site("north", rows(*range(100)), seed=3)
    after = split_site("south", rows(*range(50, 300)), seed=3)

    held = set(before.holdout.x[:, 0]) & set(range(50, 100))
    assert held
    assert held <= set(after.holdout.x[:, 0])
    assert not held & set(after.train.x[:, 0])
    assert set(before.holdout.x[:, 0]) != set(split_site("north", rows(*range(100)), seed=4).holdout.x[:, 0])
