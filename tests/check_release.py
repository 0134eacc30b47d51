"""Is this ready for an index? `make release-check`: metadata, what is inside, and a build from it.

An environment of its own builds the source distribution, and from that alone the wheel, as an
index's users do. Nothing is uploaded.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDED = ("LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml")
PACKAGES = ("data_agent", "data_agent_lab")
UNWANTED = ("benchmarks/results/", "docs/results/", "runs/", "data/", "site/", "build/")
LARGEST = 500_000  # bytes of a file


def main() -> None:
    """Check all of it, and end with what is to mend, or with what is ready."""
    problems = version_problems()
    with tempfile.TemporaryDirectory() as folder:
        sdist, wheel = build(Path(folder))
        problems += [f"{sdist.name}: {one}" for one in sdist_problems(sdist)]
        problems += [f"{wheel.name}: {one}" for one in wheel_problems(wheel)]
    if problems:
        sys.exit("\n".join(problems))
    sys.stdout.write(f"{sdist.name} and {wheel.name} are ready for an index\n")


def version_problems() -> list[str]:
    """Where the version, or its entry, differs from that of the package."""
    version = re.findall(r'"(.+)"', (ROOT / "src/data_agent/_version.py").read_text())[-1]
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    problems: list[str] = []
    if cited is None or cited[1].strip('"') != version:
        problems.append(f"CITATION.cff does not name version {version}, which _version.py does")
    changes = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[(.+?)\]", changes, re.MULTILINE)
    if headings[:1] != [version]:
        problems.append(f"CHANGELOG.md begins with {headings[:1]}, not with [{version}]")
    for section in re.split(r"^## ", changes, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (.+)$", section, re.MULTILINE)
        if len(kinds) != len({*kinds}):
            problems.append(
                f"CHANGELOG.md: {section.split()[0].rstrip(chr(44))} has a heading twice"
            )
    return problems


def build(folder: Path) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it alone; both pass twine."""
    venv.create(folder / "env", with_pip=True)
    python = str(folder / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    run(python, "-m", "pip", "install", "--quiet", *needed, "twine")
    run(python, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder / "dist"))
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    wheels = ("--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "dist"))
    run(python, "-m", "pip", "wheel", "--quiet", *wheels, str(sdist))
    (wheel,) = (folder / "dist").glob("*.whl")
    run(python, "-m", "twine", "check", "--strict", str(sdist), str(wheel))
    return sdist, wheel


def run(*words: str) -> None:
    """Run a program in the checkout; what it prints goes to stderr."""
    subprocess.run(words, cwd=ROOT, check=True, stdout=sys.stderr)


def sdist_problems(path: Path) -> list[str]:
    """What is missing in a source distribution, or does not belong there."""
    with tarfile.open(path) as archive:
        sizes = {m.name.partition("/")[2]: m.size for m in archive.getmembers() if m.isfile()}
    missing = [f"{name} is missing" for name in NEEDED if name not in sizes]
    return [*missing, *content_problems(sizes)]


def wheel_problems(path: Path) -> list[str]:
    """What is missing in a wheel, or does not belong there."""
    with zipfile.ZipFile(path) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    told = path.name.split("-")
    roots = {*PACKAGES, f"{told[0]}-{told[1]}.dist-info"}
    code = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src").rglob("*.py")}
    others = {name.partition("/")[0] for name in sizes} - roots
    problems = [f"{name} does not belong in it" for name in sorted(others)]
    problems += [f"{name} is missing" for name in sorted(code - sizes.keys())]
    licensed = any(name.endswith("licenses/LICENSE") for name in sizes)
    return problems + ([] if licensed else ["the licence is missing"]) + content_problems(sizes)


def content_problems(sizes: dict[str, int]) -> list[str]:
    """Files that are results, products, or large."""
    unwanted = [
        f"{name} does not belong in it"
        for name in sizes
        if name.startswith(UNWANTED) or "__pycache__" in name or name.endswith(".jsonl")
    ]
    large = [f"{name} has {size:,} bytes" for name, size in sizes.items() if size > LARGEST]
    return sorted(unwanted + large)


if __name__ == "__main__":
    main()
