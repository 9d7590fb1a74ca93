"""What a node answers, and what it keeps to itself."""

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.answering import Answering
from client.receipts import Receipts, newest
from client.worker import WorkerFailed
from fl import messages
from fl.appbundle import make_bundle
from fl.errors import DataError
from fl.protocol import contract_entries, this_contract
from fl.tasks import find_task


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


def _answer(tmp_path, answer):
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    contract = this_contract(find_task("digits"))
    question = Message(
        RecordDict({messages.CONFIG: ConfigRecord(contract_entries(contract))}),
        dst_node_id=7,
        message_type=messages.DESCRIBE,
    )
    question.metadata.__dict__["_message_id"] = question.object_id
    link, path = _Link(question), tmp_path / "receipts.jsonl"
    Answering(contract, _Worker(answer), Receipts(path), None, "localhost:8080").answer(link, _Work())
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
