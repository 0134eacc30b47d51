from __future__ import annotations

import logging
import signal
import time

import pytest

from data_agent_lab.terminal import progress_and_log, stdout, stop_requests


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_to_stop_and_the_second_ends(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_requests() as should_stop:
        assert not should_stop()
        signal.raise_signal(number)
        assert should_stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_the_deadline_asks_to_stop() -> None:
    for seconds in (600, -1):
        with stop_requests(time.monotonic() + seconds) as should_stop:
            assert should_stop() == (seconds < 0)


def test_signals_are_as_before_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="broken"), stop_requests():
        raise ValueError("broken")
    assert signal.getsignal(signal.SIGINT) is before


def test_the_log_goes_to_stderr_and_stops_with_the_block(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger = logging.getLogger("data_agent_lab.comparing.session")
    with progress_and_log(logging.WARNING) as progress:
        progress("decoding", 1, 2)
        logger.info("run 1 is done")
        logging.getLogger("data_agent_lab.training.run").info("one of many lines")
    logger.info("after the block")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "run 1 is done" in captured.err
    assert "one of many lines" not in captured.err
    assert "after the block" not in captured.err
    assert logging.getLogger("data_agent").handlers == []


def test_results_are_not_cut_or_interpreted_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    stdout().print("a path [with] brackets, of :cat: " + "x" * 150)
    assert capsys.readouterr().out == "a path [with] brackets, of :cat: " + "x" * 150 + "\n"
