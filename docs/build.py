"""Builds the documentation site: `python docs/build.py`, or `make docs`, into site/.

Pages are plain Markdown that reads well where they lie. The site gets copies of them, and of every
file of the repository that they link to, so that no link leaves it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from command_help import help_sections
from method_cards import card, file_of
from plain_texts import expanded, gist_of

from data_agent.methods import METHODS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
STAGE = ROOT / "build" / "docs"
SITE = ROOT / "site"
CONTENTS = "SUMMARY.md"
START = DOCS / "start" / "quickstart.md"
CARDS, HELP = "<!-- cards -->", "<!-- help -->"
UNLISTED = ("repository/", "SUMMARY")  # code, copies of other files: no answer to a search

_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_PAGE = re.compile(r"(?<![\w/\"])docs/([\w/-]+\.md)\b")  # as docstrings name one


def main() -> None:
    """Stage the pages, build the site strictly, and write what programs read of it.

    Raises:
        subprocess.CalledProcessError: a page links to nothing.
    """
    stage()
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    subprocess.run(command, cwd=ROOT, check=True)
    link_docstrings()
    trim_search()
    write_texts()


def stage() -> None:
    """Copy docs/ and all that it links to, directly or not, into the folder that is built."""
    shutil.rmtree(STAGE, ignore_errors=True)
    todo = [path for path in DOCS.rglob("*") if path.suffix in (".md", ".svg", ".png", ".css")]
    todo += map(file_of, METHODS)
    done: set[Path] = set()
    while todo:
        if (source := todo.pop()) not in done:
            done.add(source)
            todo += stage_file(source)


def stage_file(source: Path) -> list[Path]:
    """Copy one file, code as a page that shows it, and return what it links to."""
    place = place_of(source)
    place.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".py":
        name = source.relative_to(ROOT)
        place.write_text(f"# {name}\n\n````python\n{source.read_text()}````\n")
    elif source.suffix == ".md":
        text, linked = relinked(source)
        place.write_text(whole_figures(with_parts(text)))
        return linked
    else:
        shutil.copyfile(source, place)
    return []


def place_of(source: Path) -> Path:
    """Where a file is staged: those of docs/ as they lie, the others in a folder of their own."""
    if source.is_relative_to(DOCS):
        return STAGE / source.relative_to(DOCS)
    place = STAGE / "repository" / source.relative_to(ROOT)
    return place.with_name(f"{place.name}.md") if source.suffix == ".py" else place


def relinked(page: Path) -> tuple[str, list[Path]]:
    """A page's text with links as they are on the site, and the files that it links to."""
    linked: list[Path] = []

    def relink(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        path = (page.parent / target).resolve()
        if target.startswith(("http:", "https:", "mailto:")):
            return match[0]
        if path.is_dir():  # which a site cannot show
            return text
        linked.append(path)
        return f"[{text}]({os.path.relpath(place_of(path), place_of(page).parent)}{anchor or ''})"

    return _LINK.sub(relink, page.read_text()), linked


def with_parts(text: str) -> str:
    """A page with what is made of the code in the places that it names."""
    if CARDS in text:
        sources = {name: os.path.relpath(place_of(file_of(name)), STAGE) for name in METHODS}
        cards = "\n".join(card(name, sources[name]) for name in METHODS)
        cards = _PAGE.sub(lambda page: f"[{title_of(page[1])}]({page[1]})", cards)
        text = text.replace(CARDS, cards)
    return text.replace(HELP, help_sections()) if HELP in text else text


def whole_figures(text: str) -> str:
    """`1.0 +- 0.2` with the sign for it and spaces that do not break; code stays as it is."""
    parts = re.split(r"(^```+.*?^```+|`[^`\n]+`)", text, flags=re.MULTILINE | re.DOTALL)
    figures = [part.replace(" +- ", "\u00a0\u00b1\u00a0") for part in parts[::2]]
    parts[::2] = figures
    return "".join(parts)


def contents() -> list[tuple[str, str]]:
    """The navigation in its order: `(title, "")` of a section, `(title, path)` of a page."""
    lines = re.findall(r"^ *\* (.+)$", (DOCS / CONTENTS).read_text(), flags=re.MULTILINE)
    named = set(re.findall(r"\]\(([^)]+)\)", "\n".join(lines)))
    entries: list[tuple[str, str]] = []
    for line in lines:
        if match := _LINK.fullmatch(line):
            entries.append((match[1], match[2]))
        elif "*" in line:
            paths = sorted(str(path.relative_to(DOCS)) for path in DOCS.glob(line))
            entries += [(title_of(path), path) for path in paths if path not in named | {CONTENTS}]
        else:
            entries.append((line, ""))
    return entries


def title_of(page: str) -> str:
    """A page's first heading."""
    return (DOCS / page).read_text().partition("\n")[0].removeprefix("# ")


def link_docstrings() -> None:
    """Make links of the pages that docstrings name (docs/method.md, say); code is left as it is."""
    for file in (SITE / "cards.html", *SITE.glob("reference/*.html")):

        def link(match: re.Match[str], file: Path = file) -> str:
            page = match[1].replace("README", "index").removesuffix(".md")
            path = os.path.relpath(SITE / f"{page}.html", file.parent)
            return f'<a href="{path}">{title_of(match[1])}</a>'

        parts = re.split(r"(<pre\b.*?</pre>)", file.read_text(), flags=re.DOTALL)
        parts = [part if number % 2 else _PAGE.sub(link, part) for number, part in enumerate(parts)]
        file.write_text("".join(parts))


def trim_search() -> None:
    """Leave code and copies of other files out of the search, and the contents out of the site."""
    index = SITE / "search.json"
    content = json.loads(index.read_text())
    found = content["items"]
    content["items"] = [item for item in found if not item["location"].startswith(UNLISTED)]
    index.write_text(json.dumps(content, ensure_ascii=False))
    (SITE / CONTENTS).with_suffix(".html").unlink()


def write_texts() -> None:
    """Write llms.txt, llms-full.txt and the pages that they link to, for programs that read."""
    shutil.copytree(STAGE, SITE, dirs_exist_ok=True)
    (SITE / CONTENTS).unlink()
    lines, texts = [head_of_texts()], []
    for title, page in contents():
        if not page:
            lines.append(f"\n## {title}\n")
            continue
        text = expanded((STAGE / page).read_text())
        (SITE / page).write_text(text)
        lines.append(f"- [{title}]({page}): {gist_of(text)}")
        texts.append(f"<!-- {page} -->\n\n{text}")
    (SITE / "llms.txt").write_text("\n".join(lines) + "\n")
    (SITE / "llms-full.txt").write_text("\n".join(texts))


def head_of_texts() -> str:
    """What a program reads first: what it is, how it is installed, the loop."""
    project = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    install, loop, *_ = re.findall(r"^```(?:bash|python)\n.*?^```", START.read_text(), re.M | re.S)
    return (
        f"# {project['site_name']}\n\n> {project['site_description']}\n\n"
        f"On no package index yet; in a checkout:\n\n{install}\n\n{loop}\n\n"
        "All of these pages in one file: [llms-full.txt](llms-full.txt)."
    )


if __name__ == "__main__":
    main()
