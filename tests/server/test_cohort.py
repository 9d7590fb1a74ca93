import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from fl.data.dataset import Dataset, Site
from fl.model import initial_state
from fl.tasks import find_task
from fl.tasks.base import Task
from fl.training import TrainRequest, TrainSettings
from fl.training.sequential import SequentialTrainer
from server.simulation import cohort
from server.simulation.cohort import CohortTrainer

pytestmark = pytest.mark.usefixtures("threads_of_small_models")

DIGITS = find_task("digits")
BREAST = find_task("breast-cancer")
SETTINGS = TrainSettings(round=2, seed=7, local_epochs=2, batch_size=16, lr=0.05, momentum=0.5)


def digit_sites(sizes):
    whole = DIGITS.load()
    starts = np.cumsum([0, *sizes])
    return [
        Site(f"site-{i}", whole.take(np.arange(a, b)), whole.take(np.arange(1000 + a, 1005 + a)))
        for i, (a, b) in enumerate(pairwise(starts))
    ]


def both(task, sites, settings):
    state = initial_state(task, 0)
    requests = [TrainRequest(site, state, settings) for site in sites]
    alone = SequentialTrainer(task)
    return CohortTrainer(task, sites).train_all(requests), [alone.train(request) for request in requests]


def assert_same(stacked, alone):
    for one, other in zip(stacked, alone, strict=True):
        assert one.examples == other.examples
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.initial_loss == pytest.approx(other.initial_loss) if other.initial_loss else True
        for name, weights in other.state.arrays.items():
            np.testing.assert_allclose(one.state.arrays[name], weights, atol=2e-5)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"momentum": 0.0},
        {"weight_decay": 0.01},
        {"proximal_mu": 0.5},
        {"report_initial_loss": True},
        {"batch_size": 5},
        {"batch_size": 1000},
    ],
    ids=str,
)
@pytest.mark.parametrize("sizes", [[32, 32, 32], [40, 1, 17, 33]], ids=str)
def test_stacked_training_is_training_one_by_one(sizes, change):
    stacked, alone = both(DIGITS, digit_sites(sizes), dataclasses.replace(SETTINGS, **change))

    assert_same(stacked, alone)


def test_tables_with_missing_values_stack_too():
    whole = BREAST.load()
    x = whole.x.copy()
    x[::3, 4] = np.nan
    data = Dataset(x, whole.y)
    sites = [Site(f"s{i}", data.take(np.arange(i * 40, i * 40 + 40)), data.take(np.arange(0))) for i in range(4)]

    stacked, alone = both(BREAST, sites, dataclasses.replace(SETTINGS, lr=1e-6))

    assert_same(stacked, alone)


def test_many_sites_go_in_several_stacks(monkeypatch):
    monkeypatch.setitem(cohort.STACKED_PARAMETERS, "cpu", 30_000)  # Two models of digits.

    stacked, alone = both(DIGITS, digit_sites([20, 30, 25, 10, 15]), SETTINGS)

    assert_same(stacked, alone)


class _Branching(nn.Module):
    """Does what vmap cannot express: Python decides by a value."""

    def __init__(self):
        super().__init__()
        self.flat, self.linear = nn.Flatten(), nn.Linear(64, 10)

    def forward(self, x):
        return self.linear(self.flat(x)) * (2.0 if x.sum().item() > 0 else 1.0)


class _Tied(nn.Module):
    """Two layers that share their weights."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        return self.last(self.second(self.first(x.flatten(1))))


class _Counting(nn.Module):
    """Keeps a buffer that training changes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.steps += 1
        return self.linear(x.flatten(1))


class _PartlyUsed(nn.Module):
    """Has a layer that is fixed and one that the loss does not depend on."""

    def __init__(self):
        super().__init__()
        self.fixed, self.used, self.idle = nn.Linear(64, 16), nn.Linear(16, 10), nn.Linear(3, 3)
        self.fixed.requires_grad_(False)

    def forward(self, x):
        return self.used(self.fixed(x.flatten(1)))


def test_fixed_and_unused_layers_stay_as_they_are_in_a_stack():
    task = Task("t", "", DIGITS.schema, _PartlyUsed, DIGITS.loss, DIGITS.metrics)
    settings = dataclasses.replace(SETTINGS, weight_decay=0.1)

    stacked, alone = both(task, digit_sites([20, 20]), settings)

    assert_same(stacked, alone)
    for name in ("fixed.weight", "idle.weight"):
        np.testing.assert_array_equal(stacked[0].state.arrays[name], initial_state(task, 0).arrays[name])


@pytest.mark.parametrize(
    "model",
    [
        _Tied,
        _Counting,
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)),
        lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)),
        _Branching,
    ],
    ids=["tied weights", "counting", "batch normalisation", "dropout", "branching"],
)
def test_what_cannot_be_stacked_is_trained_one_by_one(model):
    task = Task("t", "", DIGITS.schema, model, DIGITS.loss, DIGITS.metrics)

    stacked, alone = both(task, digit_sites([20, 20]), SETTINGS)

    assert [r.state.digest() for r in stacked] == [r.state.digest() for r in alone]


def test_an_announced_result_is_given_once_and_only_for_the_same_weights():
    sites = digit_sites([20, 20])
    trainer, state = CohortTrainer(DIGITS, sites), initial_state(DIGITS, 0)
    requests = [TrainRequest(site, state, SETTINGS) for site in sites]
    expected = [result.state.digest() for result in trainer.train_all(requests)]
    trainer.announce(requests)
    other = TrainRequest(sites[0], initial_state(DIGITS, 1), SETTINGS)

    assert trainer.train(other).state.digest() == SequentialTrainer(DIGITS).train(other).state.digest()
    # Rounding tells a stacked result from one that was trained alone.
    assert SequentialTrainer(DIGITS).train(requests[1]).state.digest() != expected[1]
    assert trainer.train(requests[1]).state.digest() == expected[1]
    assert trainer.train(requests[1]).state.digest() != expected[1]


def test_evaluations_announced_together_are_those_made_alone():
    sites = digit_sites([20, 20, 20])
    trainer, state = CohortTrainer(DIGITS, sites), initial_state(DIGITS, 0)
    alone = SequentialTrainer(DIGITS)
    trainer.announce_evaluation(state, [site.holdout for site in sites])

    for site in sites:
        got, expected = trainer.evaluate(state, site.holdout), alone.evaluate(state, site.holdout)
        assert got.examples == expected.examples
        assert got.loss == pytest.approx(expected.loss)
        assert got.metrics == pytest.approx(expected.metrics)
