"""What is checked of an answer before it is averaged."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fl import messages
from fl.arrays import to_record
from fl.data.schema import Column, TableSchema
from fl.data.statistics import column_sums
from fl.messages import SiteDescription
from fl.model import ModelState
from fl.tasks import find_task
from server.intake import (
    Rejected,
    check_description,
    check_evaluation,
    check_training,
)

DIGITS = find_task("digits")
BASE = ModelState({"w": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float32)}, {}, {"m": np.zeros(2)})


@pytest.fixture
def request_():
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return Message(RecordDict(), dst_node_id=7, message_type="train")


def answer(request, metrics=None, arrays=None, buffers=None, without=""):
    records = {
        messages.METRICS: MetricRecord({messages.EXAMPLES: 10, messages.LOSS: 0.5} | (metrics or {})),
        messages.ARRAYS: to_record({**BASE.arrays, **(arrays or {})}),
        messages.BUFFERS: to_record({**BASE.buffers, **(buffers or {})}),
    }
    return Message(RecordDict({k: v for k, v in records.items() if k != without}), reply_to=request)


def test_a_good_answer_is_measured(request_):
    arrays = {"w": np.full((2, 3), 2, np.float32), "b": np.full(2, np.sqrt(6), np.float32)}

    checked = check_training(answer(request_, arrays=arrays), BASE, 10)

    assert (checked.node, checked.examples, checked.loss) == (7, 10, 0.5)
    assert checked.norms == {"weights": pytest.approx(6.0), "buffers": 0.0}


def test_the_norm_of_large_numbers_does_not_overflow(request_):
    checked = check_training(answer(request_, arrays={"b": np.full(2, 3e38, np.float32)}), BASE, 10)

    assert checked.norms["weights"] == pytest.approx(3e38 * 2**0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"arrays": {"w": np.zeros((3, 2), np.float32)}}, r"w is \[3, 2\] float32, not \[2, 3\] float32"),
        ({"arrays": {"w": np.zeros((2, 3))}}, "float64, not"),
        ({"arrays": {"x": np.zeros(2)}}, "weights of another model: x"),
        ({"arrays": {"w": np.full((2, 3), np.nan, np.float32)}}, "weights that are not finite"),
        ({"arrays": {"b": np.array([0, -np.inf], np.float32)}}, "weights that are not finite"),
        ({"buffers": {"m": np.array([np.inf, 0])}}, "buffers that are not finite"),
        ({"buffers": {"m": np.zeros(3)}}, "buffers of another shape"),
        ({"without": messages.ARRAYS}, "returned no weights"),
        ({"without": messages.BUFFERS}, "returned no buffers"),
        ({"without": messages.METRICS}, "returned no metrics"),
        ({"metrics": {messages.LOSS: float("nan")}}, "returned loss nan"),
        ({"metrics": {messages.EXAMPLES: 0}}, "trained on 0 examples"),
        ({"metrics": {messages.EXAMPLES: -5}}, "trained on -5 examples"),
        ({"metrics": {messages.EXAMPLES: 1.5}}, "trained on 1.5 examples"),
        ({"metrics": {messages.EXAMPLES: 11}}, "trained on 11 examples and has 10"),
        ({"metrics": {messages.EXAMPLES: float("nan")}}, "trained on nan examples"),
        ({"metrics": {messages.EXAMPLES: [10]}}, "returned no 'num-examples'"),
    ],
)
def test_a_bad_answer_is_rejected_with_its_reason(request_, wrong, reason):
    with pytest.raises(Rejected, match=reason):
        check_training(answer(request_, **wrong), BASE, 10)


def test_an_empty_answer_is_rejected(request_):
    with pytest.raises(Rejected, match="empty answer"):
        check_training(Message(RecordDict(), reply_to=request_), BASE, 10)


def test_metrics_of_the_wrong_kind_are_no_metrics(request_):
    content = RecordDict({messages.METRICS: ConfigRecord({"a": 1})})

    with pytest.raises(Rejected, match="returned no metrics"):
        check_training(Message(content, reply_to=request_), BASE, 10)


def test_the_received_weights_loss_is_needed_where_it_was_asked_for(request_):
    with pytest.raises(Rejected, match="returned no 'initial-loss'"):
        check_training(answer(request_), BASE, 10, initial_loss=True)
    with pytest.raises(Rejected, match="loss inf"):
        check_training(answer(request_, {messages.INITIAL_LOSS: float("inf")}), BASE, 10, initial_loss=True)


def evaluated(request, **metrics):
    numbers = {messages.EXAMPLES: 5, messages.LOSS: 0.4, "accuracy": 0.9} | metrics
    return Message(RecordDict({messages.METRICS: MetricRecord(numbers)}), reply_to=request)


def test_an_evaluation_is_read(request_):
    found = check_evaluation(evaluated(request_), DIGITS, 5)

    assert (found.examples, found.loss, found.metrics) == (5, 0.4, {"accuracy": 0.9})


def test_a_hospital_that_holds_nothing_out_measures_nothing(request_):
    nothing = {messages.EXAMPLES: 0, messages.LOSS: float("nan"), "accuracy": float("nan")}

    assert check_evaluation(evaluated(request_, **nothing), DIGITS, 0).examples == 0


@pytest.mark.parametrize(
    ("metrics", "most", "reason"),
    [
        ({"accuracy": float("inf")}, 5, "measured accuracy inf"),
        ({"accuracy": 1.5}, 5, "measured accuracy 1.5, which is not from 0 to 1"),
        ({messages.LOSS: -0.1}, 5, "measured loss -0.1, which is not from 0 to inf"),
        ({"f1": 0.5}, 5, "measured something else: f1"),
        ({}, 4, "evaluated 5 examples and holds out 4"),
        ({messages.LOSS: float("nan")}, 5, "measured loss nan"),
        ({messages.EXAMPLES: -3}, 5, "evaluated -3 examples"),
    ],
)
def test_a_bad_evaluation_is_rejected(request_, metrics, most, reason):
    with pytest.raises(Rejected, match=reason):
        check_evaluation(evaluated(request_, **metrics), DIGITS, most)


X = np.array([[1.0, np.nan], [3.0, 4.0]])
TABLE = TableSchema((Column("age", "numeric"), Column("dose", "numeric")), "sick", ("no", "yes"))


def described(request, examples=2, sums=X, **others):
    found = None if sums is None else column_sums(sums)
    return messages.describe_reply(request, SiteDescription("h", examples, 1, found, **others))


def test_a_description_with_sums_is_read(request_):
    assert check_description(described(request_), TABLE).sums.count.tolist() == [2.0, 1.0]
    assert check_description(described(request_, sums=None), None).examples == 2


@pytest.mark.parametrize(
    ("reply", "schema", "reason"),
    [
        ({"examples": 0}, None, "no examples to train on"),
        ({"examples": -1}, None, "fewer examples than none"),
        ({"sums": None}, TABLE, "no column sums"),
        ({"sums": X[:, :1]}, TABLE, "do not fit the schema"),
        ({"sums": np.array([[np.inf, 1.0]])}, TABLE, "do not fit the schema"),
        ({"examples": 1}, TABLE, "column 'age' has 2 values in 1 rows"),
    ],
)
def test_a_bad_description_is_rejected(request_, reply, schema, reason):
    with pytest.raises(Rejected, match=reason):
        check_description(described(request_, **reply), schema)


def test_who_only_evaluates_needs_no_examples_to_train_on(request_):
    assert not check_description(described(request_, examples=0, sums=None, trains=False), TABLE).trains
