"""Which step the rows of several batches belong to."""

from data_agent.selecting.cadence import Cadence


def test_rows_of_the_latest_batches_are_of_the_latest_steps():
    cadence = Cadence(10, fewest_rows=1, most_updates=100)
    for _ in range(3):
        cadence.count(2, 1000)
    assert cadence.steps_of((2, 3)).tolist() == [1, 1, 2, 2, 2]
