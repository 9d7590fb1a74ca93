"""Golden manifests: exactly the image's scalar changes; what cannot be changed alone is refused with its place."""

from __future__ import annotations

import difflib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.image_name import ImageName, parse_image
from pipeline.manifest import ManifestError, find_image, set_image

FOLDER = Path(__file__).parent / "manifests"
REPOSITORY = "harbor.example.org/flops/server"
NEW = ImageName(REPOSITORY, "2026-01-31-14-05-09", f"sha256:{'a' * 64}")
CASES = sorted(path.name for path in (FOLDER / "before").iterdir())

PLAIN = (FOLDER / "before" / "plain.yaml").read_text()
IMAGE = str(find_image(PLAIN.encode(), "plain", "global-server", REPOSITORY).image)


def test_at_least_twenty_manifests_are_tried() -> None:
    assert len(CASES) >= 20
    assert sorted(path.name for path in (FOLDER / "after").iterdir()) == CASES


@pytest.mark.parametrize("name", CASES)
def test_exactly_the_image_changes(name: str) -> None:
    before = (FOLDER / "before" / name).read_bytes()
    made = set_image(before, name, "global-server", NEW)
    assert made == (FOLDER / "after" / name).read_bytes()
    lines = list(difflib.ndiff(before.decode().splitlines(True), made.decode().splitlines(True)))
    assert [sum(line.startswith(sign) for line in lines) for sign in ("- ", "+ ")] == [1, 1]
    assert find_image(made, name, "global-server", REPOSITORY).image == NEW


def test_an_anchor_that_is_there_twice_is_no_mistake_and_prints_nothing() -> None:
    text = f"a: &x 1\nb: &x 2\n---\n{PLAIN}"
    script = (
        "import sys; from pipeline.manifest import find_image; "
        f"print(find_image(sys.stdin.buffer.read(), 'c.yaml', 'global-server', '{REPOSITORY}').image)"
    )
    ended = subprocess.run([sys.executable, "-c", script], input=text, capture_output=True, text=True, check=True)
    assert (ended.stdout.strip(), ended.stderr) == (IMAGE, "")


def test_the_same_image_is_the_same_file() -> None:
    made = set_image(PLAIN.encode(), "plain", "global-server", NEW)
    assert set_image(made, "plain", "global-server", NEW) == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", r"f.yaml, line 1: is not YAML: expected ',' or '\]'"),
        ("a:\n\tb: 1\n", "f.yaml, line 2: is not YAML: .*; YAML wants spaces there, not tabs"),
        ("a: b: c", "f.yaml, line 1: is not YAML: mapping values are not allowed here"),
        ("a: \x00", "f.yaml: is not YAML: .*special characters are not allowed"),
        ("", "f.yaml: has no container named 'global-server'; there is none in any pod"),
        ("- 1\n", "f.yaml: has no container named"),
        ("kind: CronJob\nspec: none\n", "f.yaml: has no container named"),
        (
            PLAIN.replace("name: global-server\n              image", "name: other\n              image"),
            "there is other$",
        ),
        (PLAIN.replace("CronJob", "Unknown"), "there is none in any pod"),
        (f"{PLAIN}---\n{PLAIN}", r"has 2 containers named 'global-server', lines 12 and 27; names must differ"),
        (PLAIN.replace(f"image: {IMAGE}", "args: [x]"), "line 12: container 'global-server' has no image; write one"),
        (PLAIN.replace(f"image: {IMAGE}", "image: {a: b}"), "line 12: container 'global-server' has no image"),
        (PLAIN.replace(f"image: {IMAGE}", f"<<: {{image: {IMAGE}}}"), r"comes through a merge key \(<<\)"),
        (
            PLAIN.replace("flops/server", "flops/client"),
            "line 13: .* runs .*/flops/client, and .*/server is released",
        ),
        (PLAIN.replace("harbor.", "docker."), "runs docker.example.org/flops/server, and"),
        (PLAIN.replace(IMAGE, "Not An Image"), "line 13: 'Not An Image' is no image's name"),
        (PLAIN.replace(IMAGE, '""'), "line 13: '' is no image's name"),
        (
            PLAIN.replace(IMAGE, f'"{IMAGE}"'.replace("flops/", "flops\\x2f")),
            "line 13: the image is written with esc",
        ),
        (PLAIN.replace(IMAGE, f"&i {IMAGE}\n              args: [*i]"), "line 13: .* shared through the anchor &i"),
        (f"x: &i {IMAGE}\n" + PLAIN.replace(IMAGE, "*i"), "line 1: .* is shared through the anchor &i"),
        (
            PLAIN.replace("containers:", "containers: &c").replace(
                "restart", "initContainers: *c\n          restart"
            ),
            "shared through the anchor &c",
        ),
        (PLAIN.replace("- name: global-server", "- &c\n              name: global-server") + "x: *c\n", "anchor &c"),
        (PLAIN.replace("image:", "image: x\n              image:"), "line 14: the key 'image' is there twice"),
        ("a: 1\na: 2\n" + PLAIN, "line 2: the key 'a' is there twice"),
    ],
)
def test_what_cannot_be_changed_alone_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message) as caught:
        set_image(text.encode(), "f.yaml", "global-server", NEW)
    assert "\n" not in str(caught.value)


def test_other_encodings_are_refused() -> None:
    with pytest.raises(ManifestError, match=r"^f\.yaml: is not text in UTF-8$"):
        set_image(PLAIN.encode("utf-16"), "f.yaml", "global-server", NEW)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_a_file_holds_is_an_image_or_a_message(content: bytes) -> None:
    with pytest.raises(ManifestError, match=r"f\.yaml"):
        find_image(content, "f.yaml", "global-server", REPOSITORY)


@pytest.mark.parametrize(
    "text",
    [
        "server",
        "flops/server:1",
        "localhost:5000/server",
        "harbor.example.org:8443/flops/deep/server:2026-01-31-14-05-09",
        f"harbor.example.org/flops/server@sha256:{'0' * 64}",
        f"harbor.example.org/flops/server:a@sha256:{'0' * 64}",
    ],
)
def test_images_names_are_taken_apart_and_put_together(text: str) -> None:
    assert str(parse_image(text)) == text


@pytest.mark.parametrize(
    "text", ["", ":", "a:", "a@", "a b", "A", "a@sha256:1", "a:b:c", "https://a/b", "a//b", "-a"]
)
def test_what_is_no_images_name_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="is no image's name"):
        parse_image(text)
