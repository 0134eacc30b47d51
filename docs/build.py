"""Builds the documentation site: `python docs/build.py`, or `make docs`, into site/.

Pages are plain Markdown that reads well where they lie. The site gets copies of them, and of every
file of the repository that they link to, so that no link leaves it.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import torch

from data_agent.baselines.refreshed import Refreshed
from data_agent.methods import METHODS, make_selector, method_class
from data_agent_lab.methods import expected_cost, is_batch_selector

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
STAGE = ROOT / "build" / "docs"
SITE = ROOT / "site"
CONTENTS = "SUMMARY.md"
CARDS = "<!-- cards -->"

_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def main() -> None:
    """Stage the pages, build the site strictly, and write what programs read of it.

    Raises:
        subprocess.CalledProcessError: a page links to nothing.
    """
    stage()
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    subprocess.run(command, cwd=ROOT, check=True)
    write_texts()


def stage() -> None:
    """Copy docs/ and all that it links to, directly or not, into the folder that is built."""
    shutil.rmtree(STAGE, ignore_errors=True)
    todo = [path for path in DOCS.rglob("*") if path.suffix in (".md", ".svg", ".png")]
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
        place.write_text(text.replace(CARDS, "\n".join(map(card, METHODS))))
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


def card(name: str) -> str:
    """What a reader wants to know of a method, all of it read from its class and its file."""
    kind = method_class(name)
    told = inspect.getdoc(sys.modules[kind.__module__]) or ""
    first = next(one for one in METHODS if method_class(one).__module__ == kind.__module__)
    if first != name:
        told = f"Described with [`{first}`](#{first}), whose file it shares."
    told = re.sub(r"docs/([\w/-]+\.md)", lambda page: f"[{title_of(page[1])}]({page[1]})", told)
    head, *facts = (f"| {what} | {value} |" for what, value in facts_of(name).items())
    table = "\n".join((head, "|---|---|", *facts))
    shown = "{members: false, show_root_heading: false, show_root_toc_entry: false}"
    return (
        f"## {name}\n\n{told}\n\n{table}\n\n"
        f"::: {kind.__module__}.{kind.__name__}\n    options: {shown}\n"
    )


def facts_of(name: str) -> dict[str, str]:
    """What a method must be given, what it costs, what it reads, which epochs it chooses."""
    kind = method_class(name)
    given = {"labels": torch.arange(100) % 2, "groups": torch.arange(100) % 2}
    given["scores"] = torch.linspace(0, 1, 100)
    options: dict[str, Any] = {option: given[option] for option in kind.required}
    selector = make_selector(name, num_samples=100, epochs=16, keep_ratio=0.5, **options)
    schedule = selector.schedule.kind
    file = os.path.relpath(place_of(file_of(name)), STAGE)
    facts = {"class": f"[`{kind.__name__}`]({file})"}
    facts["built with"] = ", ".join(f"`{option}=`" for option in kind.required)
    if made := [option for option in kind.required if option != "labels"]:
        facts["how the command makes them"] = (inspect.getdoc(kind.prepare) or "").split("\n")[0]
    facts["every batch must bring"] = "labels" if kind.needs_labels else ""
    if selector.reads is not None:
        facts["reads of a batch"] = ", ".join(("losses", *selector.reads))
    facts["cost at keep ratio 0.5"] = f"{expected_cost(name, 0.5, epochs=16):.2f} of full training"
    if schedule == "floating":
        facts["cost at keep ratio 0.5"] = "its own, whatever the keep ratio"
    if issubclass(kind, Refreshed):
        facts["cost at keep ratio 0.5"] += ", and its looks at all samples"
    if made:
        facts["cost at keep ratio 0.5"] += f", and the trainings that make its {made[0]}"
    facts["chooses"] = "in each batch" if is_batch_selector(name) else f"by schedule `{schedule}`"
    if selector.explore:
        facts["chooses"] += f", {100 * selector.explore:g} % of a chosen epoch drawn uniformly"
    return {what: value for what, value in facts.items() if value}


def file_of(name: str) -> Path:
    """The file that a method's class is in."""
    return Path(inspect.getfile(method_class(name)))


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


def write_texts() -> None:
    """Write llms.txt, llms-full.txt and the pages that they link to, for programs that read."""
    shutil.copytree(STAGE, SITE, dirs_exist_ok=True)
    project = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    lines = [f"# {project['site_name']}\n\n> {project['site_description']}"]
    lines += [f"- [{title}]({page})" if page else f"\n## {title}\n" for title, page in contents()]
    (SITE / "llms.txt").write_text("\n".join(lines) + "\n")
    texts = [f"<!-- {page} -->\n\n{(STAGE / page).read_text()}" for _, page in contents() if page]
    (SITE / "llms-full.txt").write_text("\n".join(texts))


if __name__ == "__main__":
    main()
