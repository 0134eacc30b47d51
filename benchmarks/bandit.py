"""What the agent learns where the good samples are known: the bandit of tests/agent/test_bandit.py.

python benchmarks/bandit.py                  # table, and benchmarks/results/bandit.json
"""

import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "agent"))

from test_bandit import BATCH_SIZE, KEEP_RATIO, SIZE, VISITS, Bandit, play, policy_means  # noqa: E402

from data_agent import DataAgent, DataAgentConfig  # noqa: E402
from data_agent_lab.runs.environment import describe_environment  # noqa: E402

CASES = [("default", seed) for seed in range(10)] + [("paper", 0)]


def measure(name: str, seed: int) -> dict:
    """Good share of the selection after 60,000 visits, and the policy's means at the end."""
    bandit = Bandit.of(seed)
    config = DataAgentConfig.paper() if name == "paper" else DataAgentConfig()
    epochs = 24 if name == "paper" else round(VISITS / (KEEP_RATIO * SIZE))
    agent = DataAgent(SIZE, epochs, keep_ratio=KEEP_RATIO, seed=seed, config=config)
    agent.use_loader(BATCH_SIZE)
    shares = play(bandit, agent, until=60_000)
    later = play(bandit, agent, until=VISITS)
    on_good, on_bad = policy_means(bandit, agent)
    return {
        "config": name,
        "seed": seed,
        "good_share_after_60000": round(later[0], 4),
        "highest_good_share": round(max(shares + later), 4),
        "mean_action_good": round(on_good, 4),
        "mean_action_bad": round(on_bad, 4),
        "visits": agent.visits,
    }


def main() -> None:
    """Play all cases, print a table, write JSON."""
    torch.set_num_threads(1)
    rows = [measure(name, seed) for name, seed in CASES]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    result = {"environment": describe_environment("cpu"), "keep_ratio": KEEP_RATIO, "rows": rows}
    path = ROOT / "benchmarks" / "results" / "bandit.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
