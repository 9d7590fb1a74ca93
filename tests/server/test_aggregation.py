"""Folding answers into their mean, and keeping them all."""

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from fl import messages
from fl.arrays import to_record
from fl.model import ModelState
from server.aggregation import Everything, Mean, WeightedMean
from server.intake import Checked

BASE = ModelState({"w": np.zeros(3, np.float32)}, {}, {"count": np.zeros((), np.int64)})


@pytest.fixture
def request_():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return Message(RecordDict(), dst_node_id=7, message_type="train")


def reply(request, value, examples, count):
    content = RecordDict(
        {
            messages.ARRAYS: to_record({"w": np.full(3, value, np.float32)}),
            messages.BUFFERS: to_record({"count": np.array(count)}),
            messages.METRICS: MetricRecord({messages.EXAMPLES: examples, messages.LOSS: 0.1}),
        }
    )
    return Checked(request.metadata.dst_node_id, examples, 0.1, {}), Message(content, reply_to=request)


@pytest.mark.parametrize("kind", [lambda r: Mean(BASE, r), lambda r: Everything(BASE, lambda node: node)])
def test_both_weigh_by_examples_and_average_buffers(request_, kind):
    aggregation = kind(request_)
    for value, examples, count in ((1.0, 1, 2), (4.0, 3, 6)):
        aggregation.add(*reply(request_, value, examples, count))

    parameters, buffers = aggregation.result(FedAvg(weighted_by_key=messages.EXAMPLES), 1)

    np.testing.assert_allclose(parameters["w"], 3.25)
    assert buffers["count"] == 5
    assert buffers["count"].dtype == np.int64


def test_the_mean_does_not_depend_on_the_order_of_arrival_in_float32():
    rng = np.random.default_rng(0)
    arrays = [{"w": rng.normal(size=1000).astype(np.float32)} for _ in range(20)]
    like = {"w": np.zeros(1000, np.float32)}

    def mean(order):
        found = WeightedMean()
        for i in order:
            found.add(arrays[i], 1 + i)
        return found.take(like)["w"]

    np.testing.assert_array_equal(mean(range(20)), mean(reversed(range(20))))


def test_arrays_larger_than_a_piece_are_folded_whole():
    found, size = WeightedMean(), 2**18 + 5
    found.add({"w": np.ones((size, 1), np.float32)}, 1)
    found.add({"w": np.full((size, 1), 3, np.float32)}, 1)

    mean = found.take({"w": np.zeros((size, 1), np.float32)})["w"]

    assert mean.shape == (size, 1)
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, 2.0)
