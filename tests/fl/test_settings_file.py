"""Settings files name what is wrong in them."""

import pytest

from fl.errors import SettingsError
from fl.settings_file import SettingsFile


def read(tmp_path, text):
    path = tmp_path / "f.toml"
    path.write_text(text)
    return SettingsFile.read(path)


@pytest.mark.parametrize(
    ("text", "ask", "problem"),
    [
        ("n = 0", lambda f: f.whole("n", least=1), "n: 0: a whole number of at least 1"),
        ("n = true", lambda f: f.whole("n"), "n: True"),
        ("n = 1.5", lambda f: f.whole("n"), "n: 1.5"),
        ("", lambda f: f.whole("n"), "the key 'n' is missing"),
        ("n = nan", lambda f: f.number("n"), "n: nan"),
        ("n = 2", lambda f: f.number("n", above=0, most=1), "a number above 0 and at most 1 is needed"),
        ("n = 0", lambda f: f.number("n", above=0), "n: 0"),
        ("n = 5", lambda f: f.text("n"), "n: 5: a text is needed"),
        ('n = ""', lambda f: f.text("n"), "n: ''"),
        ("n = 5", lambda f: f.table("n"), "a table is needed, [n]"),
        ("[t]\nn = 0", lambda f: f.table("t").whole("n", least=1), "t.n: 0"),
    ],
)
def test_a_wrong_value_is_named_with_file_and_key(tmp_path, text, ask, problem):
    file = read(tmp_path, text)

    with pytest.raises(SettingsError) as error:
        ask(file)

    assert problem in str(error.value)
    assert "f.toml: " in str(error.value)


def test_a_key_that_nobody_asks_for_is_unknown_and_the_nearest_is_suggested(tmp_path):
    file = read(tmp_path, "round = 3")
    file.whole("rounds", 1)

    with pytest.raises(SettingsError, match=r"unknown key 'round' \(did you mean 'rounds'\?\); known: rounds"):
        file.finish()


def test_inner_tables_are_checked_too(tmp_path):
    file = read(tmp_path, "[gate]\nmetrik = 'a'")
    file.table("gate").text("metric", "accuracy")

    with pytest.raises(SettingsError, match=r"unknown key 'gate\.metrik'"):
        file.finish()


@pytest.mark.parametrize(
    ("content", "problem"), [(b"a = ", "is not TOML"), (b"\xff\xfe", "UTF-8"), (None, "no such file")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, problem):
    path = tmp_path / "f.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(SettingsError, match=problem):
        SettingsFile.read(path)
