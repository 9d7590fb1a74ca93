"""A hospital's node to which the environment's BEHAVIOUR does one thing; `flops client start …` otherwise.

The training process imports this file too, so what is patched here at the top is patched in both processes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.supercore.inflatable.inflatable_object import add_header_to_object_body

import fl.model
import fl.protocol
from client.link import Link
from fl import messages
from fl.training.sequential import SequentialTrainer

BEHAVIOUR, _, VALUE = os.environ["BEHAVIOUR"].partition("=")


class Nonsense(MetricRecord):
    """A record with a right header and a body that nobody can read."""

    def deflate(self):
        return add_header_to_object_body(b"\xff\xfe nonsense", self)


Nonsense.__qualname__ = "MetricRecord"


def pickled(content):
    payload = b"cposix\nsystem\n(S'touch " + os.environ["MARKER"].encode() + b"'\ntR."
    names = content.array_records[messages.ARRAYS]
    content[messages.ARRAYS] = ArrayRecord({k: Array("float32", (1,), "numpy.ndarray", payload) for k in names})


def scaled(content, change):
    arrays = content.array_records[messages.ARRAYS]
    content[messages.ARRAYS] = ArrayRecord({k: Array(change(v.numpy())) for k, v in arrays.items()})


def renamed(content):
    arrays = content.array_records[messages.ARRAYS]
    content[messages.ARRAYS] = ArrayRecord({k + "x": v for k, v in arrays.items()})


def metrics(content, **values):
    content.metric_records[messages.METRICS].update({k.replace("_", "-"): v for k, v in values.items()})


def without(content, *names):
    for name in names or list(content):
        del content[name]


def metrics_without(content, name):
    del content.metric_records[messages.METRICS][name]


TRAIN_REPLIES = {
    "not-numbers": lambda content: scaled(content, lambda a: a * np.float32("nan")),
    "empty": without,
    "no-weights": lambda content: without(content, messages.ARRAYS),
    "large": lambda content: scaled(content, lambda a: a * np.float32(1e6)),
    "shapes": lambda content: scaled(content, lambda a: a[..., :1]),
    "names": renamed,
    "doubles": lambda content: scaled(content, lambda a: a.astype(np.float64)),
    "boasts": lambda content: metrics(content, num_examples=10**6),
    "endless": lambda content: metrics(content, num_examples=float("inf")),
    "lists": lambda content: metrics(content, loss=[1.0, 2.0], initial_loss=[1.0]),
    "extra-list": lambda content: metrics(content, initial_loss=[1.0]),
    "extra-number": lambda content: metrics(content, initial_loss=1.0, mood=5),
    "extra-arrays": lambda content: content.update({"more": content.array_records[messages.ARRAYS]}),
    "extra-metrics": lambda content: content.update({"more": MetricRecord({"mood": 5})}),
    "nonsense": lambda content: content.update({messages.METRICS: Nonsense()}),
    "nonsense-beside": lambda content: content.update({"beside": Nonsense()}),
    "pickle": pickled,
    "metrics-as-config": lambda content: content.update({messages.METRICS: ConfigRecord({"loss": 1.0})}),
    "other-record": lambda content: content.update({messages.ARRAYS: MetricRecord({"w": 1.0})}),
    "whole-other": lambda content: (without(content), content.update({"hello": ConfigRecord({"a": "b"})})),
}

EVALUATE_REPLIES = {
    "evaluates-nan": lambda content: metrics(content, loss=float("nan")),
    "evaluates-without-loss": lambda content: metrics_without(content, messages.LOSS),
    "evaluates-without-accuracy": lambda content: metrics_without(content, "accuracy"),
    "evaluates-lists": lambda content: metrics(content, accuracy=[0.5, 0.5]),
    "evaluates-endless": lambda content: metrics(content, num_examples=float("inf")),
    "evaluates-negative": lambda content: metrics(content, num_examples=-5),
    "evaluates-perfectly": lambda content: metrics(content, num_examples=10**9, accuracy=1.0),
    "evaluates-empty": without,
}

DESCRIBE_REPLIES = {
    "describes-without-site": lambda content: without(content, messages.SITE),
    "describes-without-holdout": lambda content: metrics_without(content, "num-holdout"),
    "describes-endless": lambda content: metrics(content, num_examples=float("inf")),
    "describes-sums": lambda content: content.update(
        {messages.SUMS: ArrayRecord({k: Array(np.array([np.nan])) for k in ("count", "total", "squares")})}
    ),
}

BY_KIND = {
    messages.TRAIN: TRAIN_REPLIES,
    messages.EVALUATE: EVALUATE_REPLIES,
    messages.DESCRIBE: DESCRIBE_REPLIES,
}


def change_replies(names):
    """Send changed replies: of each kind the first that is named to the first message, and so on."""
    todo = {kind: [changes[n] for n in names if n in changes] for kind, changes in BY_KIND.items()}
    honest = Link.reply

    def reply(self, message):
        waiting = todo.get(message.metadata.message_type)
        if waiting and message.has_content():
            waiting.pop(0)(message.content)
        honest(self, message)

    Link.reply = reply


def confirm_own_replies():
    """Tell the server that one's own answer was received: Flower's handler would remove it."""
    honest = Link.reply

    def reply(self, message):
        honest(self, message)
        request = ConfirmMessageReceivedRequest(
            node=self._node, run_id=message.metadata.run_id, message_object_id=message.metadata.message_id
        )
        self._client.ConfirmMessageReceived(request)
        print("confirmed", file=sys.stderr, flush=True)

    Link.reply = reply


class Growing(Array):
    """An array that says it consists of its one piece many times."""

    def deflate(self):
        _, _, body = super().deflate().partition(b"\0")
        told = {**json.loads(body), "arraychunk_ids": [0] * int(VALUE)}
        return add_header_to_object_body(json.dumps(told).encode(), self)


Growing.__qualname__ = "Array"


def grow():
    data = os.urandom(10**6)
    record = ArrayRecord()
    record["w"] = Growing("uint8", (len(data),), "numpy.ndarray", data)
    return record


def send_always(content):
    """Put something more into each answer to train."""
    honest = Link.reply

    def reply(self, message):
        if message.metadata.message_type == messages.TRAIN and message.has_content():
            message.content["more"] = content()
        honest(self, message)

    Link.reply = reply


def change_training(before=lambda: None, after=lambda result: result):
    honest = SequentialTrainer.train

    def train(self, request):
        before()
        return after(honest(self, request))

    SequentialTrainer.train = train


def not_numbers(result):
    arrays = {name: np.full_like(array, np.nan) for name, array in result.state.arrays.items()}
    return dataclasses.replace(result, state=dataclasses.replace(result.state, arrays=arrays))


def dawdle():
    print("training begins", file=sys.stderr, flush=True)
    time.sleep(float(VALUE))


def fail():
    raise RuntimeError("the scanner\nis on fire")


if BEHAVIOUR == "replies":
    change_replies(VALUE.split(","))
elif BEHAVIOUR == "nan":
    change_training(after=not_numbers)
elif BEHAVIOUR == "confirms":
    confirm_own_replies()
elif BEHAVIOUR == "grows":
    send_always(grow)
elif BEHAVIOUR == "floods":
    send_always(lambda: ArrayRecord({"w": Array(np.frombuffer(os.urandom(int(VALUE)), np.uint8))}))
elif BEHAVIOUR == "slow":
    change_training(before=dawdle)
elif BEHAVIOUR == "fails":
    change_training(before=fail)
elif BEHAVIOUR == "protocol":
    fl.protocol.PROTOCOL = int(VALUE)
elif BEHAVIOUR == "model":
    fl.model.ModelState.signature = property(lambda self: "0" * 64)
else:
    raise SystemExit(f"no such behaviour: {BEHAVIOUR}")

if __name__ == "__main__":
    from fl.cli import entry

    entry()
