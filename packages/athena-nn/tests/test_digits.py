"""Digit strings: what is held out is never trained on, and questions, answers and padding agree."""

from __future__ import annotations

import torch

from athena_nn._digits import (
    IGNORED,
    START,
    STOP,
    TASKS,
    DigitPairs,
    answer,
    collate,
    held_out_strings,
    is_held_out,
    question,
)


def drawn_strings(pairs: DigitPairs, draws: int) -> list[tuple[int, ...]]:
    strings = []
    for _ in range(draws):
        source, real, _, _ = pairs.draw()
        strings += [tuple(row[mask][1:].tolist()) for row, mask in zip(source, real, strict=True)]
    return strings


def test_no_held_out_string_is_trained_on():
    trained = drawn_strings(DigitPairs(batch=64, lengths=(2, 3), seed=0), draws=100)
    assert len(trained) == 6400
    assert {len(digits) for digits in trained} == {2, 3}
    held = {digits for length in (2, 3) for digits in held_out_strings(length, 1000)}
    assert all(map(is_held_out, held))
    assert not held.intersection(trained)
    # all other strings of two digits occur, so it is the hash alone that keeps a string out
    assert len({digits for digits in trained if len(digits) == 2}) + len(held_out_strings(2, 100)) == 100


def test_a_tenth_is_held_out_and_it_is_always_the_same():
    everything = [(a, b, c, d) for a in range(10) for b in range(10) for c in range(10) for d in range(10)]
    assert 900 < sum(map(is_held_out, everything)) < 1100
    assert held_out_strings(9, 20) == held_out_strings(9, 20)
    assert len(set(held_out_strings(9, 20))) == 20


def test_lengths_and_tasks_are_drawn_alike():
    pairs = DigitPairs(batch=100, lengths=(4, 7), seed=1)
    sources = [pairs.draw()[:2] for _ in range(40)]
    lengths = torch.cat([real.sum(1) - 1 for _, real in sources])
    tasks = torch.cat([source[:, 0] for source, _ in sources])
    shares = torch.bincount(lengths)[4:] / len(lengths)
    assert (shares - 0.25).abs().max() < 0.03  # four standard deviations of 4,000 draws
    assert abs((tasks == TASKS["sort"][0]).float().mean() - 0.5) < 0.03


def test_questions_answers_and_padding_agree():
    source, real, given, labels = collate([("reverse", (3, 1, 2)), ("sort", (9, 0))])
    assert source[real].tolist() == [*question("reverse", (3, 1, 2)), *question("sort", (9, 0))]
    assert real.tolist() == [[True] * 4, [True, True, True, False]]
    assert labels.tolist() == [[2, 1, 3, STOP], [0, 9, STOP, IGNORED]]
    assert given.tolist() == [[START, 2, 1, 3], [START, 0, 9, STOP]]
    assert answer("sort", (7, 7, 0)) == [0, 7, 7, STOP]


def test_the_state_of_pairs_goes_on_where_it_was():
    pairs = DigitPairs(batch=3, lengths=(2, 5), seed=0)
    pairs.draw()
    state = pairs.state_dict()
    expected = pairs.draw()
    again = DigitPairs(batch=3, lengths=(2, 5), seed=9)
    again.load_state_dict(state)
    assert all(map(torch.equal, expected, again.draw()))
