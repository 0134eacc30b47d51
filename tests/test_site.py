"""The site is built from the pages: all of them are in it, and every link leads somewhere."""

import importlib.util
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import pytest

pytest.importorskip("zensical", reason="needs pip install 'data-agent[docs]'")
pytest.importorskip("data_agent_lab.methods", reason="needs pip install 'data-agent[lab]'")

from filelock import FileLock
from lxml import html

from data_agent.methods import METHODS
from data_agent_lab.commands import parse

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = ROOT / "site"
NEW = sorted(page for room in ("start", "compare") for page in DOCS.glob(f"{room}/*.md"))


@pytest.fixture(scope="module")
def build():
    """The module that builds the site."""
    spec = importlib.util.spec_from_file_location("build_site", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    return [str(link) for link in root.xpath(".//a/@href")]


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


def test_every_method_has_a_card(pages, build):
    cards = pages[SITE / "cards.html"]
    assert [str(name) for name in cards.xpath("//article//h2/@id")] == list(METHODS)
    text = " ".join(cards.xpath("//article")[0].text_content().split())
    assert "Qin et al. 2024" in text  # a source
    assert "Departures. One network chooses for itself" in text
    assert build.facts_of("divbs")["cost at keep ratio 0.5"] == "0.83 of full training"
    assert build.facts_of("el2n")["built with"] == "`scores=`"
    assert build.facts_of("el2n")["how the command makes them"] == "The mean score of two networks."
    assert build.facts_of("label-aware")["every batch must bring"] == "labels"
    assert build.facts_of("entropy")["reads of a batch"] == "losses, logits, uncertainty"
    assert "looks at all" in build.facts_of("afss")["cost at keep ratio 0.5"]
    assert "its own" in build.facts_of("infobatch-published")["cost at keep ratio 0.5"]


def test_the_reference_shows_every_public_name(pages):
    shown = set().union(*(pages[page].xpath("//@id") for page in SITE.glob("reference/*.html")))
    for path in ROOT.glob("src/data_agent/**/*.py"):
        if found := re.search(r"^__all__ = \[(.*?)\]", path.read_text(), re.DOTALL | re.MULTILINE):
            module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
            for name in re.findall(r'"(\w+)"', found[1]):
                assert f"{module.removesuffix('.__init__')}.{name}" in shown


def test_programs_get_a_list_of_all_pages(pages):
    text = (SITE / "llms.txt").read_text()
    linked = re.findall(r"^- \[.+\]\((.+)\)$", text, flags=re.MULTILINE)
    sources = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"SUMMARY.md"}
    assert sorted(linked) == sorted(sources)
    everything = (SITE / "llms-full.txt").read_text()
    for page in linked:
        assert (SITE / page).read_text() in everything


@pytest.mark.parametrize("page", NEW, ids=lambda page: page.name)
def test_commands_parse(page):
    for line in re.findall(r"^data-agent (.+)$", page.read_text(), flags=re.MULTILINE):
        parse(line.replace("'", "").split())
