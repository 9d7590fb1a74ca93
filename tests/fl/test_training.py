import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from fl.data.dataset import Dataset, Site
from fl.model import ModelState, initial_state
from fl.tasks import find_task
from fl.tasks.base import Task
from fl.training import TrainRequest, TrainSettings
from fl.training.sequential import SequentialTrainer
from fl.training.threads import suitable_threads

pytestmark = pytest.mark.usefixtures("threads_of_small_models")

DIGITS = find_task("digits")
SETTINGS = TrainSettings(round=1, seed=0, local_epochs=2, batch_size=16, lr=0.1, momentum=0.5)


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    return Dataset(rng.random((count, 1, 8, 8), dtype=np.float32), rng.integers(0, 10, count))


def site(count, name="north"):
    return Site(name, images(count), images(5, seed=1))


def test_training_lowers_the_loss_and_is_repeatable():
    start, trainer = initial_state(DIGITS, 0), SequentialTrainer(DIGITS)
    request = TrainRequest(site(50), start, dataclasses.replace(SETTINGS, local_epochs=40))

    result = trainer.train(request)

    assert trainer.evaluate(result.state, request.site.train).loss < trainer.evaluate(start, request.site.train).loss
    assert result.examples == 50
    assert trainer.train(request).state.digest() == result.state.digest()


def test_the_order_of_examples_depends_on_round_and_site():
    start, trainer = initial_state(DIGITS, 0), SequentialTrainer(DIGITS)
    digests = {
        trainer.train(TrainRequest(site(50, name), start, dataclasses.replace(SETTINGS, round=number))).state.digest()
        for name in ("north", "south")
        for number in (1, 2)
    }

    assert len(digests) == 4


def test_the_proximal_term_is_the_papers():
    """One step of plain SGD from w0 has no pull; the second is pulled by mu * (w1 - w0)."""
    data, start = site(16), initial_state(DIGITS, 0)
    plain = dataclasses.replace(SETTINGS, local_epochs=2, momentum=0.0)
    trainer = SequentialTrainer(DIGITS)
    one = trainer.train(TrainRequest(data, start, dataclasses.replace(plain, local_epochs=1))).state
    two = trainer.train(TrainRequest(data, start, plain)).state
    pulled = trainer.train(TrainRequest(data, start, dataclasses.replace(plain, proximal_mu=0.7))).state

    for name, weights in pulled.arrays.items():
        expected = two.arrays[name] - plain.lr * 0.7 * (one.arrays[name] - start.arrays[name])
        np.testing.assert_allclose(weights, expected, atol=2e-6)


def test_the_received_weights_loss_is_reported_on_request():
    data, start, trainer = site(40), initial_state(DIGITS, 0), SequentialTrainer(DIGITS)

    result = trainer.train(TrainRequest(data, start, dataclasses.replace(SETTINGS, report_initial_loss=True)))

    assert result.initial_loss == pytest.approx(trainer.evaluate(start, data.train).loss)


def test_a_model_with_batch_normalisation_trains_on_a_last_batch_of_one():
    task = Task(
        "norm",
        "",
        DIGITS.schema,
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 10)),
        DIGITS.loss,
        DIGITS.metrics,
    )
    start = initial_state(task, 0)

    result = SequentialTrainer(task).train(TrainRequest(site(33), start, SETTINGS))

    assert result.state.signature == start.signature
    assert np.isfinite(result.loss)


def test_nothing_held_out_gives_no_numbers():
    evaluation = SequentialTrainer(DIGITS).evaluate(initial_state(DIGITS, 0), images(0))

    assert evaluation.examples == 0
    assert np.isnan(evaluation.loss)


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)

    SequentialTrainer(DIGITS).train(TrainRequest(site(20), initial_state(DIGITS, 0), SETTINGS))

    assert torch.rand(1) == expected


def test_weights_in_a_request_are_not_changed():
    start = initial_state(DIGITS, 0)
    before = start.digest()

    SequentialTrainer(DIGITS).train(TrainRequest(site(20), ModelState(start.arrays, start.frozen), SETTINGS))

    assert start.digest() == before


def test_small_models_work_with_one_thread_and_large_ones_with_all():
    large = dataclasses.replace(DIGITS, model=lambda: nn.Linear(1000, 1000))
    torch.set_num_threads(2)

    with suitable_threads(DIGITS):
        assert torch.get_num_threads() == 1
    with suitable_threads(large):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 2
