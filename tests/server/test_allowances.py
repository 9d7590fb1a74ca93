"""How much an answer may hold."""

import os
from contextlib import closing

import numpy as np
import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from fl.arrays import to_record
from server.superlink.allowances import MORE, Allowances, whole_size
from server.superlink.spool import SpooledObjectStore


@pytest.fixture
def store(tmp_path):
    with closing(SpooledObjectStore(str(tmp_path))) as found:
        yield found


@pytest.fixture
def allowances(store):
    found = Allowances(store, lambda: None)
    found.grant("question", 100)
    return found


def announce(root="answer", parts=(), node=7, sender=7, question="question"):
    tree = ObjectTree(object_id=root, children=[ObjectTree(object_id=part) for part in parts])
    message = Message(metadata=Metadata(src_node_id=sender, message_id="answer", reply_to_message_id=question))
    return PushMessagesRequest(node=Node(node_id=node), messages_list=[message], message_object_trees=[tree])


def piece(size, session="s", node=7):
    return PushObjectRequest(
        node=Node(node_id=node), session_id=session, object_id=os.urandom(8).hex(), object_content=bytes(size)
    )


def test_an_answer_may_have_what_its_question_had_and_a_little_more(allowances):
    allowances.check_reply(announce())
    allowances.announced(announce(), "s")
    for _ in range(8):
        allowances.check_piece(piece(MORE // 8))
    allowances.check_piece(piece(100))

    with pytest.raises(FlowerError):
        allowances.check_piece(piece(1))
    assert allowances.failed["question"].startswith(f"returned more than {MORE + 100} bytes")
    allowances.close("question")
    assert (allowances.failed, allowances.most("question")) == ({}, 0)


def test_what_is_there_already_counts_once(allowances, store):
    record = to_record({"w": np.arange(9000.0)})
    store.preregister(1, get_object_tree(record))
    allowances.announced(announce(), "s")
    for name, found in get_all_nested_objects(record).items():
        store.put(name, found.deflate())
        request = PushObjectRequest(node=Node(node_id=7), session_id="s", object_id=name, object_content=bytes(MORE))
        allowances.check_piece(request)
        allowances.check_piece(request)

    assert allowances.failed == {}


def test_an_announcement_may_come_again_and_not_be_another(allowances):
    for _ in range(2):
        allowances.check_reply(announce(parts=["a", "b"]))
    with pytest.raises(FlowerError):
        allowances.check_reply(announce(parts=["a", "c"]))


@pytest.mark.parametrize("wrong", [announce(sender=8), announce(root="other"), PushMessagesRequest()])
def test_an_announcement_is_of_one_message_of_the_node_itself(allowances, wrong):
    with pytest.raises(FlowerError):
        allowances.check_reply(wrong)


@pytest.mark.parametrize("wrong", [piece(1, session="other"), piece(1, session=""), piece(1, node=8)])
def test_a_piece_belongs_to_an_open_answer_of_its_node(allowances, wrong):
    allowances.announced(announce(), "s")
    with pytest.raises(FlowerError):
        allowances.check_piece(wrong)
    allowances.close("question")
    with pytest.raises(FlowerError):
        allowances.check_piece(piece(1))


def test_a_message_is_as_large_as_its_arrays_put_together(store):
    size = 3 * 2**20
    record = to_record({"zeros": np.zeros(size, np.uint8), "noise": np.frombuffer(os.urandom(size), np.uint8)})
    store.preregister(1, get_object_tree(record))
    objects = get_all_nested_objects(record)
    for name, found in objects.items():
        store.put(name, found.deflate())
    stored = sum(store.size(name) for name in objects)

    assert stored < 1.9 * size  # The pieces of zeros are one.
    assert 2 * size < whole_size(store, objects) < 2 * size + 4000
