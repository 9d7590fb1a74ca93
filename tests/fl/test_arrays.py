import pickle

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fl.arrays import LazyArray, from_record, to_record

VALUES = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "mean": np.array([0.5], dtype=np.float64),
    "count": np.array(3, dtype=np.int64),
}


def test_a_record_hands_the_same_array_over_within_a_process():
    read = from_record(to_record(VALUES))

    assert list(read) == list(VALUES)
    assert np.shares_memory(read["weight"], VALUES["weight"])
    assert not read["weight"].flags.writeable


def test_numpy_gives_a_copy_that_may_be_changed():
    array = LazyArray(VALUES["weight"])

    array.numpy()[:] = 0

    np.testing.assert_array_equal(array.value, np.arange(6).reshape(2, 3))


def test_on_the_wire_it_is_flowers_own_array():
    content = RecordDict({"arrays": to_record(VALUES)})
    objects = {key: value.deflate() for key, value in get_all_nested_objects(content).items()}

    received = inflate_object_from_contents(content.object_id, objects)

    for name, array in received["arrays"].items():
        assert type(array) is Array
        np.testing.assert_array_equal(array.numpy(), VALUES[name])
        assert array.dtype == str(VALUES[name].dtype)
    assert received.object_id == RecordDict({"arrays": ArrayRecord(
        {name: Array(value) for name, value in VALUES.items()}
    )}).object_id  # fmt: skip


def test_pickling_makes_it_a_plain_array():
    copy = pickle.loads(pickle.dumps(LazyArray(VALUES["weight"])))  # noqa: S301 - ours

    assert type(copy) is Array
    np.testing.assert_array_equal(copy.numpy(), VALUES["weight"])
