"""Markup is made by `tag` alone, which escapes what data bring."""

from __future__ import annotations

import pytest

from data_agent_lab.page.markup import Markup, joined, tag


def test_elements_with_attributes_and_children() -> None:
    made = tag("p", "a", tag("b", 1.5), None, class_="note", data_m=3, hidden=True, id=None)
    assert made == '<p class="note" data-m="3" hidden>a<b>1.5</b></p>'
    assert tag("img", src="x") == '<img src="x">'
    assert tag("path", d="M0 0") == '<path d="M0 0"/>'
    assert joined(["a", "b"], ", ") == "a, b"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ('" onload="x', "&quot; onload=&quot;x"),
        ("' & '", "&#x27; &amp; &#x27;"),
        ("a\0b\x1bc\ud800d", "a\ufffdb\ufffdc\ufffdd"),
        ("cat\u202edog\u2067", "cat\ufffddog\ufffd"),
    ],
)
def test_texts_and_attributes_of_data_are_escaped(text: str, written: str) -> None:
    assert tag("p", text, title=text) == f'<p title="{written}">{written}</p>'
    tag("p", text).encode("utf-8")  # whatever came can be written


def test_markup_is_not_escaped_twice_and_a_text_made_of_it_is_one_again() -> None:
    inner = tag("b", "<")
    assert tag("p", inner) == "<p><b>&lt;</b></p>"
    assert tag("p", inner + "!") == "<p>&lt;b&gt;&amp;lt;&lt;/b&gt;!</p>"
    assert isinstance(tag("p"), Markup)
