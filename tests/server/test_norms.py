"""Which changes of a model are too large to be averaged."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.model import ModelState
from server.norms import NormJudge, TooLarge, model_norms

INF = float("inf")


def noted(judge, *norms, part="weights"):
    for node, norm in enumerate(norms):
        judge.note(node, {part: norm})
    return judge


def rejected(judge, *norms, part="weights"):
    """Return which of these sizes are rejected when all are known."""
    noted(judge, *norms, part=part)
    found = []
    for node, norm in enumerate(norms):
        try:
            judge.judge(node)
        except TooLarge:
            found.append(norm)
    return found


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ((1.0, 1.2, 1e6), [1e6]),
        ((1e6, 1.0, 1.2), [1e6]),
        ((1.0, 1e6), [1e6]),
        ((1.0, INF), [INF]),
        ((1e6, 2e6, 1.0, 1.0, 1.1, 0.9), [1e6, 2e6]),
        ((1.0, 19.0), []),
        ((1.0, 21.0), [21.0]),
        ((1e6,), []),
        ((0.0, 0.0, 5.0), []),
        ((1.0, 1e-9, 1.1), []),
    ],
)
def test_of_a_model_of_zeros_only_what_is_far_larger_than_the_others_is_rejected(norms, expected):
    assert rejected(NormJudge(len(norms), 20.0, {"weights": 0.0}), *norms) == expected


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ((0.002, 0.002, 4.0), []),  # The others have learned what they can; one came back.
        ((0.002, 16.0), []),
        ((0.002, 0.002, 16.1), [16.1]),
        ((1e-9, 1e-9, 1.6e7), [1.6e7]),
        ((0.0, 0.0, 16.1), [16.1]),
        ((0.0, 0.0, 0.0), []),
        ((3.0, 3.0, 59.0), []),  # All of them learn much.
        ((3.0, 3.0, 61.0), [61.0]),
    ],
)
@pytest.mark.parametrize("part", ["weights", "buffers"])
def test_a_change_no_larger_than_what_it_changes_is_never_too_large(norms, expected, part):
    judge = NormJudge(len(norms), 20.0, {"weights": 16.0, "buffers": 16.0})

    assert rejected(judge, *norms, part=part) == expected


def test_the_reason_says_which_part_and_by_how_much():
    judge = noted(NormJudge(2, 20.0, {"buffers": 2.0}), 0.5, 50.0, part="buffers")

    with pytest.raises(
        TooLarge, match=r"the buffers 100 times as much as the others \(at most 20\), and by more than"
    ):
        judge.judge(1)
    with pytest.raises(TooLarge, match="the weights by more than their own size, and the others not at all"):
        noted(NormJudge(2, 20.0, {"weights": 2.0}), 0.0, 5.0).judge(1)


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_a_minority_of_wild_answers_is_found_in_whatever_order_they_come(bad):
    norms = [1e6] * bad + [1.0] * (bad + 1)
    for order in set(permutations(norms)):
        judge = NormJudge(len(norms), 20.0, {"weights": 0.5})
        early = []
        for node, norm in enumerate(order):
            judge.note(node, {"weights": norm})
            early += [n for n in range(node + 1) if judge.certain(n)]
        assert all(order[node] == 1.0 for node in early)
        found = NormJudge(len(norms), 20.0, {"weights": 0.5})
        assert rejected(found, *order) == [1e6] * bad


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=9), st.floats(0, 100), st.integers(0, 9))
def test_what_is_certain_early_is_never_rejected_later(norms, own, come):
    judge, early = NormJudge(len(norms), 20.0, {"weights": own}), set()
    for node, norm in enumerate(norms[:come]):  # Others may never answer.
        judge.note(node, {"weights": norm})
        early |= {n for n in range(node + 1) if judge.certain(n)}
    for node in early:
        judge.judge(node)


def test_a_change_within_the_models_own_size_waits_for_nobody():
    judge = noted(NormJudge(9, 20.0, {"weights": 2.0}), 1.9, 2.1)

    assert judge.certain(0)
    assert not judge.certain(1)


def test_without_a_limit_nothing_waits_and_nothing_is_too_large():
    judge = noted(NormJudge(5, INF), 1e30)

    assert judge.certain(0)
    assert rejected(judge, 1.0, 1e30) == rejected(judge, 0.0, 1e30) == []


def test_a_model_is_measured_by_its_parts_without_overflow_and_without_whole_numbers():
    rows = np.full((2, 40_000), 3e38, np.float32)
    state = ModelState({"w": rows, "b": np.ones(3)}, {"f": rows}, {"m": np.full(4, 2.0), "n": np.array(10**9)})

    assert model_norms(state) == {"weights": pytest.approx(3e38 * 80_000**0.5, rel=1e-6), "buffers": 4.0}
