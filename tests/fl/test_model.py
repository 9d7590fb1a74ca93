import subprocess
import sys

import numpy as np
import pytest

from fl.bundle import load_bundle, read_bundle, save_bundle
from fl.errors import DataError, FlopsError, SettingsError
from fl.inference import load_predictor
from fl.model import ModelState, conform, initial_state
from fl.tasks import find_task

DIGITS = find_task("digits")
BREAST = find_task("breast-cancer")


def test_the_seed_fixes_the_first_weights():
    assert initial_state(DIGITS, 3).digest() == initial_state(DIGITS, 3).digest()
    assert initial_state(DIGITS, 3).digest() != initial_state(DIGITS, 4).digest()


def test_statistics_are_apart_from_what_is_averaged():
    state = initial_state(BREAST, 0)

    assert sorted(state.frozen) == ["statistics.fill", "statistics.mean", "statistics.std"]
    assert not any(name.startswith("statistics") for name in state.arrays)


def test_conform_restores_dtype_order_and_whole_numbers():
    like = {"a": np.zeros(2, np.float32), "n": np.array(0, np.int64)}

    got = conform({"n": np.array(2.6), "a": np.array([1.0, 2.0])}, like)

    assert list(got) == ["a", "n"]
    assert got["a"].dtype == np.float32
    assert got["n"] == 3


def test_a_bundle_keeps_the_model_bit_for_bit_and_holds_nothing_that_runs(tmp_path):
    state = initial_state(BREAST, 1)
    save_bundle(tmp_path / "m", BREAST, state)

    task, loaded = load_bundle(tmp_path / "m")

    assert task is BREAST
    assert loaded.digest() == state.digest()
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["model.json", "weights.safetensors"]


def test_a_bundle_with_other_weights_is_refused(tmp_path):
    save_bundle(tmp_path / "a", BREAST, initial_state(BREAST, 1))
    save_bundle(tmp_path / "b", DIGITS, initial_state(DIGITS, 1))
    (tmp_path / "b" / "weights.safetensors").replace(tmp_path / "a" / "weights.safetensors")

    with pytest.raises(FlopsError, match=r"not those that model\.json lists"):
        load_bundle(tmp_path / "a")


def test_a_bundle_of_another_shape_is_refused(tmp_path):
    state = initial_state(DIGITS, 1)
    other = {name: array.astype(np.float64) for name, array in state.arrays.items()}
    save_bundle(tmp_path / "a", DIGITS, state)
    save_bundle(tmp_path / "b", DIGITS, ModelState(other, {}))
    (tmp_path / "b" / "weights.safetensors").replace(tmp_path / "a" / "weights.safetensors")

    with pytest.raises(FlopsError, match="signature"):
        load_bundle(tmp_path / "a")


def test_no_bundle_is_one_line(tmp_path):
    with pytest.raises(FlopsError, match="not a FLOps model"):
        load_bundle(tmp_path)


def test_the_predictor_takes_one_image_or_a_batch_and_names_what_is_wrong(tmp_path):
    save_bundle(tmp_path / "m", DIGITS, initial_state(DIGITS, 1))
    predictor = load_predictor(tmp_path / "m")

    assert len(predictor.predict(np.zeros((1, 8, 8)))) == 1
    assert len(predictor.predict(np.zeros((3, 64)))) == 3
    frame = predictor.predict(np.zeros((2, 1, 8, 8)))
    np.testing.assert_allclose(frame.filter(like="probability_").sum(axis=1), 1.0, rtol=1e-5)
    with pytest.raises(DataError, match="the task's have"):
        predictor.predict(np.zeros((2, 1, 7, 7)))
    with pytest.raises(DataError, match="the task's have"):
        predictor.predict(5)
    with pytest.raises(DataError, match="from 0 to 1"):
        predictor.predict(np.full((1, 1, 8, 8), 7.0))


def test_weights_are_handed_on_without_pytorch(tmp_path):
    state = initial_state(BREAST, 1)
    save_bundle(tmp_path / "m", BREAST, state)
    script = (
        "import sys; from pathlib import Path; from fl.bundle import read_bundle, save_bundle;"
        "task, state = read_bundle(Path('m')); save_bundle(Path('n'), task, state);"
        "print(state.digest(), 'torch' in sys.modules)"
    )

    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert ended.stdout.split() == [state.digest(), "False"]


def test_a_task_whose_model_has_changed_is_noticed_where_the_model_is_needed(tmp_path, monkeypatch):
    save_bundle(tmp_path / "m", DIGITS.with_reference(task="breast-cancer"), initial_state(DIGITS, 1))

    assert read_bundle(tmp_path / "m")[0].name == "breast-cancer"
    with pytest.raises(SettingsError, match="not those that task 'breast-cancer' has now; its model changed"):
        load_bundle(tmp_path / "m")
