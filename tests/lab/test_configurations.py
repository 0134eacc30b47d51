from __future__ import annotations

from pathlib import Path

import pytest

from data_agent.errors import InputError
from data_agent_lab.configurations import recipe_of, with_defaults
from data_agent_lab.recipes import RunConfig
from data_agent_lab.runs.folder import open_run
from data_agent_lab.tasks import recipe_for

TASKS = ["digits", "sst2", "bccd", "string-world"]


@pytest.mark.parametrize("task", TASKS)
def test_settings_that_came_later_are_as_if_they_had_their_defaults(task: str) -> None:
    config = RunConfig(recipe=recipe_for(task), method="random").flat()
    old = {name: value for name, value in config.items() if name != "trusted_rows"}
    assert list(with_defaults(old)) == [*old, "trusted_rows"]
    assert with_defaults(old) == config
    assert recipe_of(with_defaults(old)) == recipe_of(old) == recipe_for(task)


def test_a_run_that_an_older_version_began_goes_on(tmp_path: Path) -> None:
    config = RunConfig(recipe=recipe_for("digits")).flat()
    old = {name: value for name, value in config.items() if name != "trusted_noise"}
    with open_run(tmp_path / "run", old, resume=False) as folder:
        folder.begin(old, device="cpu")
    assert folder.status(config) == "unfinished"
    (tmp_path / "run" / "metrics.jsonl").touch()  # it trained; else another would take its place
    with pytest.raises(InputError, match=r"trusted_noise 0.0 there, 0.1 now"):
        folder.status({**config, "trusted_noise": 0.1})
