"""What a node answers, and what it keeps to itself."""

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.supercore.task_identity import TaskIdentity

from client.answering import Answering
from client.receipts import Receipts, newest
from client.worker import WorkerFailed
from fl import messages
from fl.appbundle import make_bundle
from fl.errors import DataError
from fl.messages import SiteDescription
from fl.protocol import contract_entries, this_contract
from fl.tasks import find_task
from fl.training import Evaluation


class _Link:
    """A link to nobody, which keeps what is sent."""

    def __init__(self, message):
        self.message, self.sent = message, []
        self.replaced = type("Never", (), {"is_set": staticmethod(lambda: False)})

    def bundle(self, run_id):
        return "", make_bundle()

    def fetch(self, work):
        return self.message

    def working(self, busy):
        pass

    def reply(self, message):
        self.sent.append(message)


class _Worker:
    def __init__(self, answer):
        self._answer = answer

    def call(self, message, seconds, unwanted):
        return self._answer(message)


class _Work:
    run_id = 1

    def __init__(self, message):
        self.message = remove_content_from_message(message)


def _answer(tmp_path, answer, kind=messages.DESCRIBE, policy=None, **content):
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    contract = this_contract(find_task("digits"))
    config = {**contract_entries(contract), **content.pop("config", {})}
    question = Message(
        RecordDict({messages.CONFIG: ConfigRecord(config), **content}), dst_node_id=7, message_type=kind
    )
    question.metadata.__dict__["_message_id"] = question.object_id
    link, path, file = _Link(question), tmp_path / "receipts.jsonl", None
    if policy is not None:
        file = tmp_path / "policy.toml"
        file.write_text(policy)
    Answering(contract, _Worker(answer), Receipts(path), file, "localhost:8080").answer(link, _Work(question))
    (sent,), (receipt,) = link.sent, newest(path, 9)
    return sent, receipt


def test_of_an_error_only_its_kind_leaves_the_hospital(tmp_path):
    error = DataError("'Jane Doe' is not a number", file="/data/patients.csv", row=17, column="age")

    sent, receipt = _answer(tmp_path, lambda message: messages.error_reply(message, error))

    assert sent.error.reason == "DataError; the hospital's own log and receipts say more"
    assert "Jane Doe" in receipt["reason"]
    assert receipt["result"] == "failed"


def test_how_the_training_process_ended_is_told(tmp_path):
    def died(message):
        raise WorkerFailed("the training process ended: it was killed, for want of memory perhaps")

    sent, receipt = _answer(tmp_path, died)

    assert sent.error.reason == receipt["reason"]
    assert sent.error.reason.endswith("for want of memory perhaps")


def works(message):
    """A training process that has 50 examples to train on and 10 held out."""
    if message.metadata.message_type == messages.DESCRIBE:
        return messages.describe_reply(message, SiteDescription("h", 50, 10))
    return messages.evaluate_reply(message, "h", Evaluation(10, 0.5, {"accuracy": 0.9}))


def never(message):
    raise AssertionError("nothing of it is carried out")


def unreadable():
    return ArrayRecord({"w": Array("float32", (1,), "of another kind", b"x")})


def test_what_a_server_makes_up_is_answered_and_written_down(tmp_path):
    odd = {"model": b"\xff", "model-version": [1, 2], "server-round": 1.5}

    sent, receipt = _answer(tmp_path, works, messages.EVALUATE, config=odd, arrays=unreadable())

    assert messages.read_evaluation(sent).examples == 10
    assert receipt["received"] == [{"name": "", "record": "arrays", "unreadable": "TypeError"}]
    assert receipt["model"] == {"name": "b'\\xff'", "version": "[1, 2]"}
    assert (receipt["round"], receipt["result"]) == ("1.5", "done")


def test_another_protocol_is_refused_whatever_else_the_message_holds(tmp_path):
    sent, receipt = _answer(tmp_path, never, config={"contract.protocol": 9}, arrays=unreadable())

    assert "the server speaks protocol 9" in messages.read_refusal(sent)
    assert "upgrade the client" in receipt["reason"]


def test_a_bug_is_an_error_to_the_server_and_the_node_stays(tmp_path):
    def fails(message):
        raise ZeroDivisionError("of Jane Doe")

    sent, receipt = _answer(tmp_path, fails)

    assert sent.error.reason == "ZeroDivisionError; the hospital's own log and receipts say more"
    assert (receipt["result"], receipt["reason"]) == ("failed", "ZeroDivisionError: of Jane Doe")


@pytest.mark.parametrize("kind", [messages.DESCRIBE, messages.TRAIN, messages.EVALUATE])
def test_with_too_few_examples_nothing_is_told_whatever_is_asked(kind, tmp_path):
    asked = []

    def counts(message):
        asked.append(message.metadata.message_type)
        return works(message)

    sent, receipt = _answer(tmp_path, counts, kind, "min_examples = 60")

    reason = "policy: 50 training examples are too few (min_examples = 60)"
    assert messages.read_refusal(sent) == receipt["reason"] == reason
    assert asked == [messages.DESCRIBE]


def test_with_enough_examples_an_evaluation_is_answered(tmp_path):
    sent, receipt = _answer(tmp_path, works, messages.EVALUATE, "min_examples = 50")

    assert messages.read_evaluation(sent).metrics == {"accuracy": 0.9}
    assert receipt["examples"] == 10
