"""The page in a browser: it sorts, filters, switches its theme, and asks for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser, browser
from page_runs import VALUES, Page, group, page

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium; Debian has it: apt-get install chromium"
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser with the page of a comparison."""
    folder = tmp_path_factory.mktemp("page")
    values = {**VALUES, "infobatch": 90.5, "</script><b>x</b>": 100.5}
    path = folder / "report.html"
    path.write_text(page(group(values, classes={"cat": 90.0, "x" * 160: 80.0})), encoding="utf-8")
    with browser(folder / "profile") as found:
        found.prefer("light")
        found.open(path)
        yield found


def first_cells(opened: Browser) -> list[str]:
    cells = "[...document.querySelectorAll('tbody tr')].filter(r => !r.hidden)"
    return opened.run(f"{cells}.map(r => r.cells[0].textContent)")


def test_it_makes_no_request_and_no_error(opened: Browser) -> None:
    assert len(opened.requests) == 1
    assert opened.requests[0].endswith("/report.html")
    assert opened.errors == []


def test_tables_sort_by_number_both_ways_and_by_name(opened: Browser) -> None:
    head = "document.querySelectorAll('th button')[{}].click()"
    opened.run(head.format(1))
    hostile = "</script><b>x</b>"
    best = [hostile, "data-agent", "full", "infobatch", "full-short", "random"]
    assert first_cells(opened) == best
    assert opened.run("document.querySelectorAll('th')[1].ariaSort") == "descending"
    opened.run(head.format(1))
    assert first_cells(opened) == best[::-1]
    opened.run(head.format(2))  # what has no number comes last
    assert first_cells(opened)[-1] == "full"
    opened.run(head.format(0))
    assert first_cells(opened)[1:] == ["data-agent", "full", "full-short", "infobatch", "random"]


def test_tables_filter(opened: Browser) -> None:
    script = (
        "field = document.querySelector('.filter input'); field.value = '{}';"
        "field.dispatchEvent(new Event('input'))"
    )
    opened.run(script.format("Full"))
    assert sorted(first_cells(opened)) == ["full", "full-short"]
    opened.run(script.format(""))
    assert len(first_cells(opened)) == 6


def test_the_theme_follows_the_system_and_the_button(opened: Browser) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = opened.run(ground)
    opened.prefer("dark")
    opened.wait_for(f"{ground} != '{light}'")
    opened.wait_for("document.getElementById('theme').textContent == 'Light'")
    opened.run("document.getElementById('theme').click()")
    assert opened.run(ground) == light
    opened.prefer("light")


def test_a_method_is_brought_forward_by_keyboard(opened: Browser) -> None:
    faint = "document.querySelectorAll('.off').length"
    opened.run("document.querySelector('.chip').focus()")
    opened.press("Enter", 13)
    opened.wait_for(f"{faint} > 10")
    assert opened.run("document.querySelector('.chip').ariaPressed") == "true"
    opened.press("Escape", 27)
    opened.wait_for(f"{faint} == 0")


@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_narrow_and_wide_windows(opened: Browser, width: int) -> None:
    opened.resize(width)
    assert opened.run("document.documentElement.scrollWidth") <= width


def test_it_shows_what_the_file_says(opened: Browser, tmp_path: Path) -> None:
    rows = opened.run("[...document.querySelector('tbody').rows].map(r => r.textContent)")
    source = opened.run("document.documentElement.outerHTML")
    table, *_ = Page(source.partition("<script")[0].replace("&nbsp;", "\N{NO-BREAK SPACE}")).tables
    assert rows == ["".join(cells) for cells in table[1:]]
    opened.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
