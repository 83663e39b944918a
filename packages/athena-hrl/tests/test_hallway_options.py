"""The hand-made options of the four rooms: where they start, where they lead, how they end."""

from __future__ import annotations

import numpy as np
import pytest

from athena_core.environments import NumpyEnv
from athena_hrl import FourRooms, Options, hallway_options

ROOMS = FourRooms(slip=0)


@pytest.mark.parametrize("number", range(8))
def test_each_leads_from_its_room_to_its_hallway(number):
    option, room = hallway_options(ROOMS)[number], number // 2
    hallways = [ROOMS.hallways[room - 1], ROOMS.hallways[room]]
    target = hallways[number % 2]
    other = hallways[1 - number % 2]
    starts = np.flatnonzero(option.initiation)  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert set(starts) == {other, *np.flatnonzero(ROOMS.rooms == room)}
    for state in starts:
        ended = False
        for _ in range(15):
            if not ended:
                state = ROOMS.next_state[state, option.policy[state]]  # pyright: ignore[reportIndexIssue]
                ended = bool(option.termination[state])  # pyright: ignore[reportIndexIssue]
        assert ended
        assert state == target
    assert (option.termination == (ROOMS.rooms != room)).all()


def test_everywhere_there_are_two_of_the_room_and_in_hallways_one_of_each_side():
    options = Options(hallway_options(ROOMS), NumpyEnv(ROOMS))
    assert options.everywhere
    assert not options.stochastic
    assert (options.available(np.arange(104)).sum(1) == 2).all()
