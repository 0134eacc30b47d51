#!/usr/bin/env bash
# Build the wheel, install it into an environment of its own and use it from another directory:
# the core alone must work with torch and numpy, and must not need this checkout.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --upgrade pip
"$work/env/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$work" .
"$work/env/bin/python" -m pip install --quiet -c constraints.txt "$work"/data_agent-*.whl
cd "$work"
env/bin/python -W error - <<'PYTHON'
import importlib.util
from functools import partial

for name in ("datasets", "rich", "tyro", "scipy"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed: the test proves nothing"
from importlib import resources

from data_agent import DataAgent, make_selector
from data_agent.testing import check_selector

for name in ("style.css", "script.js"):
    assert resources.files("data_agent_lab.page").joinpath(name).is_file(), f"{name} is missing"
check_selector(DataAgent)
check_selector(partial(make_selector, "random"))
print("the wheel works without the checkout and without extras")
PYTHON
if env/bin/data-agent train --task digits 2> missing.txt; then
    echo "the command line worked without its extra?" >&2
    exit 1
fi
grep -qF "pip install '.[lab]'" missing.txt || { cat missing.txt >&2; exit 1; }
echo "the command line names the extra that is missing"
