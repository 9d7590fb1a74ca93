import unicodedata

import pytest

from fl import keys
from fl.errors import SettingsError
from server.admission import Hospital, read_allow_list


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "allowed"
    path.mkdir()
    return path


def admit(folder, file, key=None):
    public = (key or keys.generate()).public_key()
    (folder / file).write_text(keys.public_line(public, "whatever") + "\n")
    return public


def test_each_key_is_a_hospital_named_by_its_file(folder):
    south, north = admit(folder, "south.pub"), admit(folder, "St. Mary-North.pub")

    assert read_allow_list(folder) == (
        Hospital("St. Mary-North", keys.identity(north), keys.fingerprint(north)),
        Hospital("south", keys.identity(south), keys.fingerprint(south)),
    )


def test_other_files_are_passed_over(folder):
    admit(folder, "north.pub")
    admit(folder, ".hidden.pub")
    (folder / "README.md").write_text("who is who")
    (folder / "north.pub~").write_text("old")

    assert [hospital.name for hospital in read_allow_list(folder)] == ["north"]


def test_a_mounted_config_map_reads_as_a_folder(folder):
    version = folder / "..2026_11_24"
    version.mkdir()
    admit(version, "north.pub")
    (folder / "..data").symlink_to(version.name)
    (folder / "north.pub").symlink_to("..data/north.pub")

    assert [hospital.name for hospital in read_allow_list(folder)] == ["north"]


def test_a_name_is_the_same_however_it_is_spelt(folder):
    admit(folder, unicodedata.normalize("NFD", "Orléans") + ".pub")

    assert [hospital.name for hospital in read_allow_list(folder)] == ["Orléans"]


def test_a_folder_that_is_missing_empty_or_a_file(folder):
    with pytest.raises(SettingsError, match=r"gone: there is no such folder; make it"):
        read_allow_list(folder / "gone")
    with pytest.raises(SettingsError, match=r"holds no key; put"):
        read_allow_list(folder)
    admit(folder, "north.pub")
    with pytest.raises(SettingsError, match="cannot be read: Not a directory"):
        read_allow_list(folder / "north.pub")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello", "not a public key"),
        (b"-----BEGIN PRIVATE KEY-----", "THIS IS A PRIVATE KEY"),
        (b"\xff\xfe", "not a public key"),
    ],
)
def test_a_file_that_is_no_key_is_named(folder, content, said):
    admit(folder, "north.pub")
    (folder / "south.pub").write_bytes(content)

    with pytest.raises(SettingsError, match=rf"south\.pub: {said}"):
        read_allow_list(folder)


def test_a_link_to_nowhere_is_named(folder):
    (folder / "north.pub").symlink_to("gone")

    with pytest.raises(SettingsError, match=r"north\.pub: there is no such file"):
        read_allow_list(folder)


def test_the_same_key_twice_names_both(folder):
    key = keys.generate()
    admit(folder, "north.pub", key)
    admit(folder, "south.pub", key)

    with pytest.raises(SettingsError, match=r"north\.pub and south\.pub have the same key; remove one"):
        read_allow_list(folder)


def test_the_same_name_twice_names_both(folder):
    admit(folder, "north.pub")
    admit(folder, "north.PUB")

    with pytest.raises(SettingsError, match=r"north\.PUB and north\.pub have the same name"):
        read_allow_list(folder)


@pytest.mark.parametrize("file", ["a:b.pub", "-north.pub", "a\nb.pub", "x" * 81 + ".pub"])
def test_names_that_cannot_be_used(folder, file):
    admit(folder, file)

    with pytest.raises(SettingsError, match=r"name.*rename the file") as raised:
        read_allow_list(folder)
    assert "\n" not in str(raised.value)
