"""Objects on disk instead of in memory."""

import os
from contextlib import closing

import pytest
from flwr.app import Array, ArrayRecord
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from server.superlink.spool import SMALL, Spool, SpooledObjectStore


def test_what_is_written_is_read_and_room_is_used_again():
    with closing(Spool()) as spool:
        first, second = spool.write(b"a" * 100), spool.write(b"b" * 100)
        spool.free(first)
        third = spool.write(b"c" * 100)

        assert third == first
        assert (spool.read(second), spool.read(third)) == (b"b" * 100, b"c" * 100)


def test_nothing_is_left_in_the_folder(tmp_path):
    with closing(Spool(str(tmp_path))) as spool:
        spool.write(os.urandom(1000))

        assert list(tmp_path.iterdir()) == []


@pytest.fixture
def stored():
    seen = []
    store = SpooledObjectStore(on_change=lambda: seen.append(1))
    record = ArrayRecord({"big": Array("uint8", (3 * SMALL,), "numpy.ndarray", os.urandom(3 * SMALL))})
    store.preregister(1, get_object_tree(record))
    objects = {name: found.deflate() for name, found in get_all_nested_objects(record).items()}
    yield store, record, objects, seen
    store.close()


def test_large_objects_come_back_bit_for_bit_and_are_not_in_memory(stored):
    store, _, objects, seen = stored
    assert all(store.get(name) == b"" for name in objects)
    for name, content in objects.items():
        store.put(name, content)

    assert {name: store.get(name) for name in objects} == objects
    assert sum(len(entry.content) for entry in store.store.values()) < SMALL
    assert len(seen) == len(objects)


def test_deleting_the_whole_frees_its_parts(stored):
    store, record, objects, _ = stored
    for name, content in objects.items():
        store.put(name, content)
    store.delete(record.object_id)

    assert len(store) == 0
    assert store._places == {}
    assert sum(map(len, store._spool._free.values())) == 1


def test_a_changed_object_is_not_taken(stored):
    store, _, objects, _ = stored
    name = next(iter(objects))

    with pytest.raises(ValueError, match="does not match content hash"):
        store.put(name, objects[name] + b"x")


def test_what_found_no_room_is_not_there_and_may_come_again(stored, monkeypatch):
    store, _, objects, _ = stored
    big = next(name for name, content in objects.items() if len(content) > SMALL)
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            store.put(big, objects[big])
    assert (store.is_there(big), store.get(big), store.size(big)) == (False, b"", 0)
    assert store.failure(big).strerror == "No space left on device"
    assert store.failure(big) is None

    store.put(big, objects[big])

    assert store.is_there(big)
    assert store.begins_with(big, b"ArrayChunk ")
    assert not store.begins_with(big, b"Array ")
    assert store.size(big) == len(objects[big])
