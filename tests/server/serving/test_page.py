"""The page as HTML: what it says, that it is whole and well-formed, and that nothing in it comes from elsewhere."""

from __future__ import annotations

import re
import threading
import time
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from fl.data.schema import ArraySchema, Column, TableSchema
from fl.errors import FlopsError
from fl.protocol import ABANDONED, CHAMPION
from fl.tasks import find_task
from server.lineage import Lineage
from server.registry import ModelVersion
from server.serving import lookout
from server.serving.champion import Champion
from server.serving.chart import draw_metric
from server.serving.form import make_form, typical
from server.serving.gathering import gather, read_entry, read_hospitals, read_metrics
from server.serving.graph import MOST_ANCESTORS, draw_lineage
from server.serving.overview import MOST_VERSIONS, Entry, Overview
from tests.server.serving.pages import MODEL, NASTY, QUOTES, asked, champion_of, filled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EMPTY = {"meta", "link", "img", "input", "br", "hr", "path", "circle", "polyline"}


class Document(HTMLParser):
    """A page taken apart; tags that are not closed in order are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: dict[str, list[str]] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.words.setdefault(self.open[-1], []).append(" ".join(data.split()))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(word for words in self.words.values() for word in words)


def read(champion: Champion, path: str = "/") -> Document:
    with asked(champion) as client:
        answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return Document(answer.text)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory, empty_tables: Path) -> Iterator[ModelVersion]:
    """Be in a folder with a registry; gives its champion."""
    with filled(tmp_path_factory.mktemp("page"), empty_tables) as champion:
        yield champion


@pytest.fixture
def champion(version: ModelVersion) -> Champion:
    return champion_of("digits", version)


def test_the_page_tells_the_model_its_lineage_and_its_hospitals(champion: Champion) -> None:
    page = read(champion)
    assert page.words["h1"] == [MODEL]
    assert page.words["h2"] == [
        "Current model", "Try it", "Where it comes from", "Accuracy over versions", "Hospitals of the last job"
    ]  # fmt: skip
    for words in (
        "Version 4", "champion", "taken back", "did not pass", "wrong labels at north", "st-mary", "488",
        "did not answer within 30 s", "gate: accuracy 0.5 is below 0.9", "4" * 12 + "…", "4" * 40, "version 3",
    ):  # fmt: skip
        assert words in page.text, words


def test_the_page_is_fit_for_a_screen_reader(champion: Champion) -> None:
    page = read(champion)
    assert page.all("html") == [{"lang": "en"}]
    for landmark in ("header", "main", "footer", "h1"):
        assert len(page.all(landmark)) == 1, landmark
    known = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert len(known) == sum("id" in attributes for _, attributes in page.tags)
    named = [
        (name, attributes[name]) for _, attributes in page.tags
        for name in ("for", "aria-labelledby", "aria-describedby") if name in attributes
    ]  # fmt: skip
    assert {one for _, value in named for one in value.split()} <= known
    assert page.tags[[tag for tag, _ in page.tags].index("body") + 1] == ("a", {"class": "skip", "href": "#main"})
    for picture in page.all("svg"):
        assert picture.get("aria-hidden") == "true" or (picture["role"] == "img" and picture["aria-labelledby"])
    assert len(page.all("title")) == 3
    assert len(page.all("desc")) == 2
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in heading for heading in page.all("th"))
    assert {attributes["for"] for attributes in page.all("label")} == {"key"}
    assert all("alt" in image for image in page.all("img"))


def test_nothing_comes_from_elsewhere_and_nothing_is_inline(champion: Champion) -> None:
    with asked(champion) as client:
        answer = client.get("/")
        page = Document(answer.text)
        addresses = [
            attributes[name]
            for _, attributes in page.tags
            for name in ("src", "href", "action")
            if name in attributes
        ]
        assert not [address for address in addresses if ":" in address or address.startswith("//")]
        assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
        assert not [attributes for _, attributes in page.tags if "style" in attributes]
        assert page.all("style") == []
        assert all("src" in script for script in page.all("script"))
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert (answer.headers["x-content-type-options"], answer.headers["referrer-policy"]) == (
            "nosniff", "no-referrer"
        )  # fmt: skip
        for address in {address for address in addresses if address.startswith("static/")}:
            file = client.get(f"/{address}")
            assert file.status_code == 200
            assert file.headers["x-content-type-options"] == "nosniff"
            assert "immutable" in file.headers["cache-control"]
            assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/)", file.text), address
        for wrong in ("/static/none.css", "/static/../page.py", "/static/%2e%2e%2fpage.py", "/static/"):
            assert client.get(wrong).status_code == 404
        assert client.head("/").status_code == 200
        assert "/" not in client.get("/openapi.json").json()["paths"]


def test_what_others_wrote_stays_text(champion: Champion) -> None:
    champion.problem = NASTY
    with asked(champion) as client:
        text = client.get("/").text
    assert "<script>alert" not in text
    page = Document(text)
    assert len(page.all("script")) == 1
    assert page.words["th"].count(NASTY) == 1
    assert page.all("b") == []
    assert QUOTES in page.text
    assert [one for _, one in page.tags if "onload" in one] == []


def test_a_problem_is_told_and_without_a_champion_what_to_do(champion: Champion) -> None:
    champion.problem = "version 6 cannot be loaded"
    page = read(champion)
    assert "version 6 cannot be loaded" in page.text
    assert "Version 4 goes on answering, but:" in page.text
    none = Champion("another", CHAMPION, 3600)
    none.start = lambda: None  # type: ignore[method-assign]
    none.problem = "model another has no champion yet"
    page = read(none)
    for words in ("There is no model to ask yet.", "flops server round", "has no champion yet", "no version yet"):
        assert words in page.text
    assert page.all("form") == []


def test_a_registry_that_goes_away_leaves_what_was_read(champion: Champion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "FRESH_SECONDS", 0.0)
    with asked(champion) as client:
        assert "cannot be read" not in client.get("/").text

        def gone(*_: object) -> Overview:
            raise FlopsError("the model registry failed: no route")

        monkeypatch.setattr(lookout, "gather", gone)
        page = Document(client.get("/").text)
        assert "The model registry cannot be read:" in page.text
        assert "no route" in page.text
        assert "st-mary" in page.text


def test_a_registry_that_hangs_holds_one_request_and_not_for_long(
    champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    monkeypatch.setattr(lookout, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(lookout, "gather", lambda *_: free.wait(20) and None)
    with asked(champion) as client:
        assert "it takes long to answer" in client.get("/").text
        began = time.monotonic()
        for _ in range(5):
            assert "Not read yet" in client.get("/").text
        assert time.monotonic() - began < 1.0
    free.set()


def test_a_folder_without_a_registry_gets_none(here: Path) -> None:
    page = read(champion_of("digits", ModelVersion(MODEL, 1, "run", "nowhere", {})))
    assert "there is no model registry" in page.text
    assert len(page.all("form")) == 1
    assert list(here.iterdir()) == []


def test_many_versions_are_cut_and_an_old_champion_is_kept(here: Path) -> None:
    class Many:
        def versions(self, _: str) -> list[ModelVersion]:
            return [ModelVersion(MODEL, n, "", "", {"parent": str(n - 1 or "")}) for n in range(80, 0, -1)]

        def aliased(self, *_: str) -> ModelVersion:
            return ModelVersion(MODEL, 7, "", "")

        def text(self, *_: object) -> None:
            return None

    found = gather(Many(), MODEL, CHAMPION)  # type: ignore[arg-type]
    assert len(found.versions) == MOST_VERSIONS + 1
    assert (found.more, found.job) == (29, 80)
    assert found.champion is not None
    assert found.champion.number == 7


def entries(*made: tuple[int, int, str], accuracy: float = 0.9) -> Overview:
    found = [Entry(n, state, parent=p, metrics={"accuracy": accuracy}) for n, p, state in made]  # type: ignore[arg-type]
    return Overview(MODEL, datetime.now(UTC), tuple(sorted(found, key=lambda entry: -entry.number)))


def test_the_graph_has_the_line_and_what_hangs_off_it() -> None:
    graph = draw_lineage(
        entries((1, 0, "passed"), (2, 1, "taken back"), (3, 2, "taken back"), (4, 1, "refused"), (5, 4, "champion"))
    )
    assert [node.entry.number for node in graph.nodes] == [5, 4, 3, 2, 1]
    assert [node.entry.number for node in graph.nodes if node.line] == [5, 4, 1]
    lanes = {node.entry.number: node.x for node in graph.nodes}
    assert lanes[5] == lanes[4] == lanes[1] < lanes[2] == lanes[3]
    assert len(graph.edges) == 4


def test_two_that_hang_off_one_version_are_side_by_side() -> None:
    graph = draw_lineage(entries((1, 0, "passed"), (2, 1, "refused"), (3, 1, "refused"), (4, 1, "champion")))
    lanes = {node.entry.number: node.x for node in graph.nodes}
    assert len({lanes[1], lanes[2], lanes[3]}) == 3


def test_a_long_line_is_counted_and_a_circle_ends() -> None:
    graph = draw_lineage(entries(*((n, n - 1, "champion" if n == 30 else "passed") for n in range(1, 31))))
    assert (len(graph.nodes), graph.older) == (MOST_ANCESTORS, 30 - MOST_ANCESTORS)
    assert len(draw_lineage(entries((1, 2, "passed"), (2, 1, "champion"))).nodes) == 2
    assert draw_lineage(entries()).nodes == ()
    many = draw_lineage(entries((1, 0, "champion"), *((n, 1, "refused") for n in range(2, 40))))
    assert many.aside == 30


@pytest.mark.parametrize("values", [(0.5,), (1.0, 1.0), (0.0,), (0.9981, 0.9982), (-3.0, 1e8), (0.2, 0.9, 0.4)])
@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_the_chart_holds_its_dots(values: tuple[float, ...], metric: str) -> None:
    made = [Entry(n, "passed", metrics={metric: value}) for n, value in enumerate(values, start=1)]
    chart = draw_metric(Overview(MODEL, datetime.now(UTC), tuple(reversed(made))))
    assert chart is not None
    assert chart.metric == metric
    assert 2 <= len(chart.up) <= 8
    assert len({tick.text for tick in chart.up}) == len(chart.up)
    for dot in chart.dots:
        assert chart.left <= dot.x <= chart.right
        assert 0 < dot.y <= chart.bottom
    assert [dot.entry.number for dot in chart.dots] == list(range(1, len(values) + 1))


def test_versions_without_metrics_have_no_chart() -> None:
    assert draw_metric(Overview(MODEL, datetime.now(UTC), (Entry(1, "passed"),))) is None


@pytest.mark.parametrize(
    ("tag", "found"),
    [
        ("loss 0.0427, accuracy 0.9852", {"accuracy": 0.9852, "loss": 0.0427}),
        ("area under curve 0.9", {"area under curve": 0.9}),
        ("loss nan, accuracy inf, f1 1e300", {}),
        ("none", {}),
        ("", {}),
        ("loss much", {}),
    ],
)
def test_metrics_are_read_from_their_tag(tag: str, found: dict[str, float]) -> None:
    assert read_metrics({"metrics": tag}) == found


def test_odd_tags_and_lineages_are_no_errors() -> None:
    odd = ModelVersion(MODEL, 3, "", "", {"parent": "-1", ABANDONED: "", "gate": "no"}, created=-1)
    assert (read_entry(odd, champion=False).state, read_entry(odd, champion=False).parent) == ("taken back", 0)
    refused = ModelVersion(MODEL, 3, "", "", {"gate": "too low"})
    assert read_entry(refused, champion=False).state == "refused"
    assert read_entry(refused, champion=True).state == "champion"
    told = Lineage("m", "t", "s", "d", hospitals={"a": {"examples": "x", "metrics": 3}, "b": 1}, left_out=[1, {}])  # type: ignore[dict-item, list-item]
    hospitals, absent = read_hospitals(told)
    assert [(one.name, one.examples, one.metrics) for one in hospitals] == [("a", None, {})]
    assert len(absent) == 1
    assert read_hospitals(Lineage("m", "t", "s", "d", hospitals=3, left_out="no")) == ((), ())  # type: ignore[arg-type]


def test_forms_fit_their_tasks(here: Path) -> None:
    digits = make_form(find_task("digits"))
    assert (digits.kind, digits.shape, digits.rows, digits.columns) == ("draw", (1, 8, 8), 8, 8)
    task = find_task("breast-cancer")
    table = make_form(task, typical(task))
    assert len(table.fields) == 30
    assert 10 < float(table.fields[0].example) < 20
    assert typical(find_task("digits")) == {}


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        (ArraySchema((8, 8), 0, 1), "draw"),
        (ArraySchema((28, 20, 1), -1, 1), "draw"),
        (ArraySchema((64,), 0, 1), "json"),
        (ArraySchema((3, 8, 8), 0, 1), "json"),
        (ArraySchema((33, 8), 0, 1), "json"),
        (ArraySchema((8, 8), float("-inf"), float("inf")), "json"),
    ],
)
def test_arrays_are_drawn_where_they_are_small_images(schema: ArraySchema, kind: str) -> None:
    from dataclasses import replace

    assert make_form(replace(find_task("digits"), schema=schema)).kind == kind


def test_a_tables_form_says_what_each_column_takes(here: Path) -> None:
    from fl.tasks.tabular import tabular_task

    task = tabular_task(
        TableSchema(
            (
                Column("age", "numeric", min=0, max=120),
                Column("weight", "numeric", missing="mean", max=300),
                Column('sex "at birth"', "categorical", missing="category", categories=("f", "m<b>")),
                Column("ward", "categorical", categories=("a", "b")),
            ),
            "sick",
            ("no", "yes"),
        )
    )
    age, weight, sex, ward = make_form(task, typical(task)).fields
    assert (age.hint, age.required, age.example) == ("0 to 120", True, "60")
    assert (weight.hint, weight.required) == ("300 or less, may be empty", False)
    assert (sex.choices, sex.required, sex.example) == (("f", "m<b>"), False, "f")
    assert ward.required
    from fl.inference import Predictor
    from fl.model import initial_state
    from server.serving.champion import Served

    champion = champion_of("digits", ModelVersion(MODEL, 1, "run", "nowhere", {}))
    champion.served = Served(ModelVersion(MODEL, 1, "run", "nowhere", {}), Predictor(task, initial_state(task, 0)))
    page = read(champion)
    inputs = {
        attributes["name"]: attributes
        for attributes in (*page.all("input"), *page.all("select"))
        if "name" in attributes
    }
    assert set(inputs) == {"age", "weight", 'sex "at birth"', "ward"}
    assert (inputs["age"]["min"], inputs["age"]["max"]) == ("0", "120")
    assert "required" in inputs["ward"]
    assert "m<b>" in page.words["option"]
    labels = {attributes["for"] for attributes in page.all("label")}
    assert {attributes["id"] for attributes in inputs.values()} <= labels
