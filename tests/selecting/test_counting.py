"""What a framework with a loop of its own tells a selector and asks of it."""

import logging

import pytest
import torch
from torch.utils.data import TensorDataset

from data_agent import Feedback, make_selector, selection_loader
from data_agent.errors import InputError, StateError
from data_agent.methods import METHODS, method_class

SIZE, EPOCHS, BATCH = 40, 4, 5  # half of it: 20 samples, 4 batches


def build():
    return make_selector("random", num_samples=SIZE, epochs=EPOCHS, keep_ratio=0.5)


def loading(selector):
    data = TensorDataset(torch.arange(SIZE, dtype=torch.float32))
    return selection_loader(data, selector, batch_size=BATCH)


def observe(selector, batches):
    for batch in batches:
        selector.observe(Feedback(batch[-1], torch.ones(len(batch[-1]))))


def test_the_next_batch_is_the_first_that_was_not_observed():
    selector = build()
    assert selector.next_batch() == (0, 0, True)
    loader = loading(selector)
    selector.set_epoch(0)
    observe(selector, list(loader)[:3])
    assert selector.next_batch() == (0, 3, True)
    assert selector.num_observed == 15
    observe(selector, [[torch.tensor([selector.select(0).index[0]])]])
    assert selector.next_batch() == (0, 4, False)


def test_after_a_whole_epoch_the_next_batch_is_the_next_epochs_first():
    selector = build()
    loader = loading(selector)
    for epoch in range(EPOCHS):
        selector.set_epoch(epoch)
        observe(selector, loader)
        assert selector.next_batch() == (epoch + 1, 0, True)


def test_a_restored_selector_stands_where_it_was_saved():
    selector = build()
    loader = loading(selector)
    selector.set_epoch(0)
    observe(selector, loader)
    selector.set_epoch(1)
    observe(selector, list(loader)[:2])
    restored = build()
    restored.use_loader(BATCH)
    restored.load_state_dict(selector.state_dict())
    assert restored.next_batch() == (1, 2, True)
    assert restored.num_observed == 10


def restored_in_epoch_two():
    selector = build()
    loader = loading(selector)
    for epoch in range(2):
        selector.set_epoch(epoch)
        observe(selector, loader)
    selector.set_epoch(2)
    observe(selector, list(loader)[:1])
    restored = build()
    restored.load_state_dict(selector.state_dict())
    return restored


def test_a_restored_selector_takes_a_zero_for_the_epoch_it_stands_in(caplog):
    selector = restored_in_epoch_two()
    with caplog.at_level(logging.INFO, logger="data_agent"):
        selector.set_epoch(0)
    assert selector.epoch == 2
    assert "counting on from 2" in caplog.text


def test_after_shift_epochs_nothing_is_guessed():
    selector = restored_in_epoch_two()
    selector.shift_epochs(0)
    with pytest.raises(StateError, match="epoch 0 cannot begin: epoch 2 is running"):
        selector.set_epoch(0)
    selector.shift_epochs(1)
    selector.set_epoch(1)
    assert selector.epoch == 2
    selector.shift_epochs(0)
    selector.set_epoch(2)
    assert selector.epoch == 2


def test_samples_of_a_cut_step_are_taken_back():
    selector, untouched = build(), build()
    loader = loading(selector)
    selector.set_epoch(0)
    batches = list(loader)
    observe(selector, batches[:2])
    selector.uncount(BATCH)
    assert (selector.num_observed, selector.visits) == (5, 5)
    assert selector.next_batch() == (0, 1, True)
    untouched.use_loader(BATCH)
    untouched.set_epoch(0)
    observe(untouched, batches[:1])
    assert selector.state_dict()["running"]["position"] == 5
    assert selector.state_dict()["visits"] == untouched.state_dict()["visits"]
    observe(selector, batches[1:])
    assert selector.next_batch() == (1, 0, True)


def test_no_more_is_taken_back_than_was_observed():
    selector = build()
    selector.uncount(0)
    with pytest.raises(InputError, match="1 samples cannot be taken back: 0 of the running epoch"):
        selector.uncount(1)
    loader = loading(selector)
    selector.set_epoch(0)
    observe(selector, list(loader)[:1])
    for count in (BATCH + 1, -1):
        with pytest.raises(InputError, match=f"{count} samples cannot be taken back: 5 of"):
            selector.uncount(count)
    assert selector.num_observed == BATCH


def test_closing_an_epoch_of_which_nothing_was_observed_is_an_error():
    selector = build()
    selector.close_epoch()  # none has begun
    loader = loading(selector)
    selector.set_epoch(0)
    batches = list(loader)
    with pytest.raises(StateError, match="delivered 20 samples and not one batch was observed"):
        selector.close_epoch()
    observe(selector, batches)
    selector.close_epoch()


def test_what_needs_features():
    needing = {name for name in METHODS if method_class(name).needs_features}
    assert needing == {"data-agent", "data-agent-in-batch", "noise-aware"}
