"""The method: reward, objective, networks, rollout, learner, table, and the agent itself."""
