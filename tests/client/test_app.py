"""The hospital's app, asked directly: a message in, a message out."""

import dataclasses

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from client.app import create_client_app
from fl import messages
from fl.arrays import to_record
from fl.data.dataset import Dataset, Site
from fl.model import initial_state
from fl.tasks import find_task
from fl.training import TrainRequest, TrainSettings
from fl.training.sequential import SequentialTrainer
from server.simulation.local import LocalGrid, node_context

BREAST = find_task("breast-cancer")
SETTINGS = TrainSettings(round=3, seed=5, local_epochs=1, batch_size=8, lr=0.01)


def site():
    whole = BREAST.load()
    x = whole.x[:40].copy()
    x[:10, 0] = np.nan
    return Site("north", Dataset(x, whole.y[:40]), whole.take(np.arange(40, 50)))


@pytest.fixture
def ask():
    """Send one message to the app of a site and return the reply."""
    app = create_client_app(lambda _: site(), lambda: SequentialTrainer(BREAST))
    grid = LocalGrid(app, {7: node_context(7, {})})

    def send(kind, **records):
        (reply,) = grid.send_and_receive([Message(RecordDict(records), dst_node_id=7, message_type=kind)])
        return reply

    return send


def weights(state):
    return {"arrays": to_record(state.arrays), "frozen": to_record(state.frozen)}


def test_it_describes_itself_and_gives_sums_only_when_asked(ask):
    quiet = messages.read_description(ask("query.describe", config=ConfigRecord({"statistics": False})))
    told = messages.read_description(ask("query.describe", config=ConfigRecord({"statistics": True})))

    assert (quiet.name, quiet.examples, quiet.holdout, quiet.sums) == ("north", 40, 10, None)
    assert told.sums is not None
    assert told.sums.count[0] == 30
    assert told.sums.total[1] == pytest.approx(site().train.x[:, 1].sum())


def test_what_leaves_it_are_weights_numbers_and_its_name(ask):
    config = ConfigRecord({**messages.train_config(SETTINGS), "server-round": 3})

    reply = ask("train", config=config, **weights(initial_state(BREAST, 0)))

    assert set(reply.content) == {"arrays", "metrics", "site"}
    assert set(reply.content["arrays"]) == set(initial_state(BREAST, 0).arrays)
    assert set(reply.content["metrics"]) == {"num-examples", "loss"}
    assert dict(reply.content["site"]) == {"name": "north"}


def test_it_trains_as_the_message_says(ask):
    state = initial_state(BREAST, 0)
    settings = dataclasses.replace(SETTINGS, proximal_mu=0.5, report_initial_loss=True)
    config = ConfigRecord({**messages.train_config(settings), "server-round": 3, "proximal-mu": 0.5})

    reply = ask("train", config=config, **weights(state))

    expected = SequentialTrainer(BREAST).train(TrainRequest(site(), state, settings))
    metrics = messages.read_metrics(reply)
    assert metrics["num-examples"] == 40
    assert metrics["initial-loss"] == pytest.approx(expected.initial_loss)
    for name, array in expected.state.arrays.items():
        np.testing.assert_array_equal(reply.content["arrays"][name].numpy(), array)


def test_it_evaluates_on_what_it_held_out(ask):
    state = initial_state(BREAST, 0)

    found = messages.read_evaluation(ask("evaluate", config=ConfigRecord(), **weights(state)))

    assert found == SequentialTrainer(BREAST).evaluate(state, site().holdout)


def test_settings_survive_the_message():
    record = messages.train_config(SETTINGS)
    record["server-round"] = 3

    assert messages.read_train_config(record) == SETTINGS


def test_weights_of_another_shape_are_an_error_reply_not_a_crash(ask):
    config = ConfigRecord({**messages.train_config(SETTINGS), "server-round": 1})

    reply = ask("train", config=config, **weights(initial_state(find_task("digits"), 0)))

    assert reply.has_error()
    assert "KeyError" in reply.error.reason
