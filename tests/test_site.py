"""The site is built from the pages: all of them are in it, and every link leads somewhere."""

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import pytest

pytest.importorskip("zensical", reason="needs pip install '.[docs]'")
pytest.importorskip("data_agent_lab.methods", reason="needs pip install '.[lab]'")

from filelock import FileLock
from lxml import html

from data_agent.methods import METHODS
from data_agent_lab.commands import parse
from data_agent_lab.tasks import SUITES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = ROOT / "site"
NEW = sorted(page for room in ("start", "compare") for page in DOCS.glob(f"{room}/*.md"))


@pytest.fixture(scope="module")
def build():
    """The module that builds the site, and imports its neighbours as a script does."""
    spec = importlib.util.spec_from_file_location("build_site", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cards(build):
    """The module that makes the cards of methods."""
    return sys.modules[build.card.__module__]


@pytest.fixture(scope="module")
def pages(build, tmp_path_factory):
    """Every page of the site, by its file; of workers that test beside each other one builds it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid4().hex)
    built = tmp_path_factory.getbasetemp().parent / f"site-{run}"
    with FileLock(f"{built}.lock"):
        if not built.exists():
            build.main()  # strictly: what Zensical finds wrong is an error
            built.touch()
    return {path: html.parse(path).getroot() for path in sorted(SITE.rglob("*.html"))}


def links_of(root):
    return [str(link) for link in root.xpath(".//a/@href | .//img/@src")]


def led_to(page, link):
    """The file that a link of a page leads to, as a server finds it."""
    path = unquote(urlsplit(link).path)
    target = (page.parent / path).resolve() if path else page
    return target / "index.html" if target.is_dir() else target


def test_every_page_is_in_the_navigation(pages):
    home = SITE / "index.html"
    (nav,) = pages[home].xpath("//nav[contains(@class, 'md-nav--primary')]")
    shown = {led_to(home, link) for link in links_of(nav)}
    sources = {page.relative_to(DOCS) for page in DOCS.rglob("*.md")} - {Path("SUMMARY.md")}
    names = {page.with_name(page.name.replace("README", "index")) for page in sources}
    assert shown == {SITE / name.with_suffix(".html") for name in names}


def test_pages_are_called_what_the_navigation_calls_them(build):
    wrong = [
        (title, build.title_of(page))
        for title, page in build.contents()
        if page and title != build.title_of(page)
    ]
    assert wrong == [("What it is", "Data Agent")]  # the home of the site


def test_every_link_leads_to_a_file_and_a_place_in_it(pages):
    places = {page: set(root.xpath("//@id")) for page, root in pages.items()}
    wrong = []
    for page, root in pages.items():
        for link in links_of(root):
            parts = urlsplit(link)
            if parts.scheme or page.name == "404.html":  # which stands anywhere
                continue
            target = led_to(page, link)
            is_there = target in places or (target.is_file() and not parts.fragment)
            if not is_there or (parts.fragment and unquote(parts.fragment) not in places[target]):
                wrong.append(f"{page.relative_to(SITE)} links to {link}")
    assert wrong == []


def test_no_page_asks_another_host(pages):
    asks = "//@src | //link[not(@rel='canonical')]/@href | //@srcset | //@data | //@poster"
    for page, root in pages.items():
        asked = [str(value) for value in root.xpath(asks)]
        assert [value for value in asked if urlsplit(value).netloc] == [], page
    for sheet in SITE.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text()) == []


def test_every_method_has_a_card(pages):
    page = pages[SITE / "cards.html"]
    assert [str(name) for name in page.xpath("//article//h2/@id")] == list(METHODS)
    text = " ".join(page.xpath("//article")[0].text_content().split())
    assert "Qin et al. 2024" in text  # a source
    assert "Departures. One network chooses for itself" in text


def test_what_a_card_says_of_a_method(cards):
    facts = {name: cards.facts_of(name) for name in METHODS}
    cost = {name: told["cost at keep ratio 0.5"] for name, told in facts.items()}
    assert cost["divbs"] == "0.83 of full training"
    assert cost["afss"] == "0.56 of full training, its looks at all samples included"
    assert cost["spread-over-duplicates"].endswith("and the search for near-duplicates")
    assert cost["cluster-balanced-random"].endswith("and the trainings that make its groups")
    assert "its own" in cost["infobatch-published"]
    assert facts["el2n"]["built with"] == "`scores=`"
    assert facts["el2n"]["how the command makes them"] == "The mean score of two networks."
    assert facts["entropy"]["reads of a batch"] == "losses, logits, uncertainty"
    chosen = {name: told["chooses"] for name, told in facts.items()}
    assert chosen["data-agent"].startswith("by schedule `exact` (with trusted rows `to-the-end`)")
    assert chosen["el2n"] == "by schedule `static`, the same samples in all epochs"
    assert chosen["class-balanced-random"] == "by schedule `static`, anew in each epoch"


def test_what_a_batch_must_bring_is_what_is_refused_without(cards):
    needed = {name: cards.facts_of(name)["a batch must bring"] for name in METHODS}
    assert needed["random"] == needed["selective-backprop"] == "losses"
    assert needed["data-agent"] == "losses, logits or an uncertainty, features"
    assert needed["data-agent-in-batch"] == needed["data-agent"]
    assert needed["divbs"] == "losses, logits, labels, features"
    assert needed["noise-aware"].startswith("losses, logits, labels, features")
    assert needed["label-aware"].startswith("losses, labels; for its rule of doubtful labels")


WITHOUT_DEPARTURES = {
    *("full", "random", "static-random", "label-aware", "noise-aware", "spread-over-duplicates"),
}
"""Controls that are what their names say, and methods of our own."""


@pytest.mark.parametrize("name", METHODS)
def test_a_card_names_its_source_and_where_ours_departs_from_it(name, cards):
    told = cards.docstring_of(name)
    assert ("\nDepartures. " in told) == (name not in WITHOUT_DEPARTURES)
    assert "https://" in told or "Our own" in told or name == "full"


def test_docstrings_lead_to_the_pages_that_they_name(pages):
    for page, root in pages.items():
        if page.parent.name == "reference" or page.name == "cards.html":
            for code in root.xpath("//article//pre"):
                code.getparent().remove(code)
            text = root.xpath("//article")[0].text_content()
            assert re.findall(r"docs/[\w/-]+", text) == [], page


def test_the_page_of_the_command_has_every_subcommand_and_flag(pages):
    page = pages[SITE / "command.html"]
    text = page.xpath("//article")[0].text_content()
    for name in ("train", "plan", "compare", "report", "archive", "audit"):
        assert page.xpath(f"//article//h2[@id='data-agent-{name}']"), name
    for flag in ("--pilot", "--no-figures", "--drop", "--keep-ratio FLOAT", "--label-noise"):
        assert flag in text
    assert f"Tasks to compare on: {', '.join(SUITES)};" in text


def test_a_search_finds_pages_and_no_copies_of_files(pages):
    places = [item["location"] for item in json.loads((SITE / "search.json").read_text())["items"]]
    assert "loop.html" in places
    assert [place for place in places if place.startswith(("repository", "SUMMARY"))] == []
    assert SITE / "SUMMARY.html" not in pages


def test_figures_do_not_break(pages):
    cells = pages[SITE / "results" / "core.html"].xpath("//article//td/text()")
    assert any("\u00a0\u00b1\u00a0" in cell for cell in cells)
    assert [cell for cell in cells if "+-" in cell] == []


def test_the_reference_shows_every_public_name(pages):
    shown = set().union(*(pages[page].xpath("//@id") for page in SITE.glob("reference/*.html")))
    for path in ROOT.glob("src/data_agent/**/*.py"):
        if found := re.search(r"^__all__ = \[(.*?)\]", path.read_text(), re.DOTALL | re.MULTILINE):
            module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
            for name in re.findall(r'"(\w+)"', found[1]):
                assert f"{module.removesuffix('.__init__')}.{name}" in shown


def test_programs_get_a_list_of_all_pages(pages):
    text = (SITE / "llms.txt").read_text()
    linked = re.findall(r"^- \[.+?\]\((.+?)\): \S.+[.?]$", text, flags=re.MULTILINE)
    sources = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"SUMMARY.md"}
    assert sorted(linked) == sorted(sources)
    everything = (SITE / "llms-full.txt").read_text()
    for page in linked:
        assert (SITE / page).read_text() in everything
    assert ":::" not in everything + text
    assert "options: {" not in everything
    for told in ("DataAgent(num_samples", "Observe a batch and return the loss to backpropagate."):
        assert told in everything
    assert "pip install '.[lab]'" in text
    assert "agent.learn(losses, index, labels=labels)" in text
    assert "(llms-full.txt)" in text


@pytest.mark.parametrize("page", NEW, ids=lambda page: page.name)
def test_commands_parse(page):
    text = page.read_text().replace("\\\n", "")
    for line in re.findall(r"^data-agent (.+)$", text, flags=re.MULTILINE):
        parse(line.replace("'", "").split())
