import copy
import dataclasses
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from fl.data.dataset import Dataset, Site
from fl.model import ModelState, initial_state
from fl.tasks import find_task
from fl.tasks.base import Task
from fl.training import TrainRequest, TrainSettings
from fl.training.sequential import SequentialTrainer, _step
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


# PyTorch has no weight decay for sparse gradients.
@pytest.mark.parametrize(("sparse", "weight_decay"), [(False, 0.0), (False, 0.01), (True, 0.0)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_is_that_of_pytorchs_optimizer_bit_for_bit(momentum, weight_decay, sparse):
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Embedding(5, 3, sparse=sparse), nn.Linear(3, 2), nn.Linear(2, 2))
    ours[2].requires_grad_(requires_grad=False)
    theirs = copy.deepcopy(ours)
    settings = dataclasses.replace(SETTINGS, lr=0.1, momentum=momentum, weight_decay=weight_decay)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=momentum, weight_decay=weight_decay)
    momenta = [None] * len(list(ours.parameters()))
    for tokens in (torch.tensor([0, 1, 1]), torch.tensor([3, 1]), torch.tensor([4])):
        for model in (ours, theirs):
            model.zero_grad()
            model(tokens).square().sum().backward()
        _step(list(ours.parameters()), momenta, settings)
        optimizer.step()

    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


def test_training_does_not_import_pytorchs_compiler():
    script = """
        import sys
        import numpy as np
        from fl.data.dataset import Dataset, Site
        from fl.model import initial_state
        from fl.tasks import find_task
        from fl.training import TrainRequest, TrainSettings
        from fl.training.sequential import SequentialTrainer
        task = find_task("digits")
        data = Dataset(np.zeros((4, 1, 8, 8), np.float32), np.zeros(4, np.int64))
        settings = TrainSettings(1, 0, 1, 2, 0.1, momentum=0.9)
        SequentialTrainer(task).train(TrainRequest(Site("a", data, data), initial_state(task, 0), settings))
        print("torch._dynamo" in sys.modules)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "False\n"), ended.stderr


def test_small_models_work_with_one_thread_and_large_ones_with_all():
    large = dataclasses.replace(DIGITS, model=lambda: nn.Linear(1000, 1000))
    torch.set_num_threads(2)

    with suitable_threads(DIGITS):
        assert torch.get_num_threads() == 1
    with suitable_threads(large):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 2
