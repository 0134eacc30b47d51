"""The page of an audit: what it shows, its size, and what a browser and hostile data make of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser, browser
from page_runs import Page, check_loads_nothing

from data_agent_lab.auditing.audit import Audit, make_audit
from data_agent_lab.auditing.inputs import Sketches
from data_agent_lab.auditing.numbers import numbers_of
from data_agent_lab.data.image_data import ImageData
from data_agent_lab.page.audit import page_of_audit
from data_agent_lab.page.markup import Markup
from data_agent_lab.page.pictures import Pictures, pictures_of, text_tag

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&<b>"
NAMES = ("cat", "dog", "owl")


def audit(count: int = 60, *, names: tuple[str, ...] = NAMES, budget: int = 200) -> Audit:
    """Of samples of which every second is believed to be of the next class; two are alike each."""
    order = np.arange(count)
    is_wrong, label = order % 2 == 1, order % len(names)
    columns: dict[str, Any] = {
        "visits": np.full(count, 5),
        "loss": np.where(is_wrong, 9.0, 0.1),
        "mean_loss": np.where(is_wrong, 5.0 + order / count, 0.2),
        "margin": np.where(is_wrong, -0.5, 0.9),
        "label": label,
        "suggested_label": np.where(is_wrong, (label + 1) % len(names), label),
    }
    angle = torch.arange(count) // 2 * 0.1  # of 60 samples less than a turn
    alike = torch.stack([angle.cos(), angle.sin()], 1)
    return make_audit(numbers_of(columns, names), budget=budget, sketches=Sketches(alike, 0.999))


def pictures(count: int = 60) -> Pictures:
    """Black images; of the first wrong sample the suggested class is the true one."""
    images, labels = torch.zeros(count, 1, 8, 8, dtype=torch.uint8), torch.arange(count) % 3
    labels[1] = 2
    return pictures_of(
        ImageData(
            train_images=images,
            train_labels=labels,
            eval_images=images,
            eval_labels=labels,
            class_names=NAMES,
            evaluation="made up",
        )
    )


def page(found: Audit, shown: Pictures | None = None, **facts: str) -> str:
    return page_of_audit(found, shown, name="a run", facts=facts)


def test_it_shows_each_kind_with_picture_labels_and_reason() -> None:
    found = Page(page(audit(), pictures(), Command="data-agent audit a"))
    said = "".join(found.texts)
    assert (
        "To look at first: 30 labels that are likely wrong, 30 samples that were never learned and "
        "30 near-duplicates of others. cat was taken for dog most (10 times)."
    ) in said
    assert found.count("img") == 30 + 30 + 2 * 30  # of pairs both
    # the highest mean loss first: 59, labelled 59 % 3 = 2
    card = "labelled owlsuggested catsample 59: cat was believed instead (margin -0.50)"
    assert said.index(card) < said.index("sample 57: ")
    assert "labelled dogsuggested owl\N{MULTIPLICATION SIGN} truly owlsample 1: " in said
    assert "1 of these 30 truly have a wrong label; of all samples, 2%." in said
    assert "like sample 58sample 59: one of 2 near-duplicates." in said
    assert found.tables[0][1] == ["cat", "dog", "10", "50.0"]
    assert "data-agent audit a" in found.texts


def test_it_is_the_json_and_loads_nothing() -> None:
    text, found = page(audit(budget=7), pictures()), audit(budget=7)
    check_loads_nothing(text)
    numbers = json.loads(Page(text).scripts["numbers"])
    assert [(f["kind"], f["index"]) for f in numbers["findings"]] == [
        (f.kind, f.index) for f in found.findings
    ]
    assert numbers["confusions"] == found.as_dict()["confusions"]


def test_what_was_not_found_has_no_part() -> None:
    bare = make_audit(numbers_of({"mean_loss": np.ones(3)}), budget=9, sketches=None)
    found = Page(page(bare))
    (lead,) = [text for text in found.texts if "looked for" in text]
    assert lead == (
        "Wrong labels were not looked for: samples have no class. What was never learned was not "
        "looked for: samples have no class. Near-duplicates were not looked for."
    )
    assert found.count("section") == found.count("nav") == 0
    assert "#57" in Page(page(audit())).texts  # a sample without a picture


def test_it_says_that_nothing_was_found_of_what_was_looked_for_alone() -> None:
    right = {"mean_loss": np.ones(3), "label": np.array([0, 1, 2]), "loss": np.zeros(3)}
    told = {**right, "margin": np.ones(3), "suggested_label": np.array([0, 1, 2])}
    bare = make_audit(numbers_of(told, NAMES), budget=9, sketches=None)
    assert (
        "Nothing of what was looked for asks for a look. Near-duplicates were not looked for."
    ) in Page(page(bare)).texts


def test_a_class_name_turns_no_sentence_around() -> None:
    text = page(audit(names=("cat\u202e", "dog", "owl")), pictures())
    assert "\u202e" not in text
    assert "<bdi>cat\ufffd</bdi> was taken for <bdi>dog</bdi> most" in text


def test_a_large_one_is_small_and_says_what_is_left_out() -> None:
    def text_of(index: int) -> Markup:
        return text_tag(f"{index} " + "many words & more " * 30)

    classes = tuple(f"a class with a name, {number}" for number in range(401))
    found = audit(2_000, names=classes, budget=900)
    text = page(found, Pictures(2_000, text_of, classes, None))
    assert len(text.encode()) < 300_000
    said = "".join(Page(text).texts)
    assert "1,000 labels that are likely wrong" in said
    assert (
        "The first 200 of 1,000; findings.csv has the first 900, more with a higher --budget."
        in said
    )
    assert "The first 50 of 401; all are in audit.json." in said


def test_hostile_names_and_texts_stay_texts() -> None:
    def found_in(name: str) -> tuple[str, Page]:
        shown = Pictures(60, lambda _: text_tag(name), (name,) * 3, None)
        text = page_of_audit(audit(names=(name, "b", "c")), shown, name=name, facts={"Data": name})
        return text, Page(text)

    (text, hostile), (_, plain) = found_in(HOSTILE), found_in("plain")
    assert "<img" not in text
    assert [name for name, _ in hostile.elements] == [name for name, _ in plain.elements]
    assert {n for _, a in hostile.elements for n in a} == {n for _, a in plain.elements for n in a}
    assert HOSTILE in hostile.texts


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium; Debian has it: apt-get install chromium")
    folder = tmp_path_factory.mktemp("audit")
    path = folder / "audit.html"
    path.write_text(page(audit(), pictures()), encoding="utf-8")
    with browser(folder / "profile") as found:
        found.prefer("light")
        found.open(path)
        yield found


def test_a_browser_filters_cards_sorts_classes_and_asks_for_nothing(opened: Browser) -> None:
    assert len(opened.requests) == 1
    assert opened.errors == []
    shown = "[...document.querySelectorAll('#wrong-label li')].filter(c => !c.hidden).length"
    typed = (
        "field = document.querySelector('#wrong-label input'); field.value = '{}';"
        "field.dispatchEvent(new Event('input'))"
    )
    assert opened.run(shown) == 30
    opened.run(typed.format("Labelled OWL"))
    assert opened.run(shown) == 10
    opened.run(typed.format(""))
    opened.run("document.querySelector('#confused th button').click()")
    first = "[...document.querySelectorAll('tbody tr')].map(r => r.cells[0].textContent)"
    assert opened.run(first) == ["cat", "dog", "owl"]


def test_a_browser_follows_links_by_keyboard_and_switches_its_theme(opened: Browser) -> None:
    opened.run("document.querySelector('a.chip').focus()")
    opened.press("Enter", 13)
    opened.wait_for("location.hash == '#wrong-label'")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = opened.run(ground)
    opened.prefer("dark")
    opened.wait_for(f"{ground} != '{light}'")
    opened.prefer("light")


@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_narrow_and_wide_windows(opened: Browser, width: int) -> None:
    opened.resize(width)
    assert opened.run("document.documentElement.scrollWidth") <= width
