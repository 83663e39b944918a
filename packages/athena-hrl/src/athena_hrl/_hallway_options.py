"""The hand-made options of the four rooms: to the hallways."""

from __future__ import annotations

from athena_hrl._four_rooms import FourRooms
from athena_hrl._option import Option


def hallway_options(rooms: FourRooms) -> list[Option]:
    """Two options for each room, which take the shortest way to either of its two hallways.

    One may start in its room and in the hallway that it does not lead to. It ends outside the room, which is
    in its hallway or, after a slip, in the other.

    Source: Sutton, Precup, Singh 1999, "Between MDPs and semi-MDPs", section 3, figure 4. Departs from it: of
    equally short ways, the one of `FourRooms.way_to` is taken.

    >>> [option.name for option in hallway_options(FourRooms())][:3]
    ['room 0 to hallway 3', 'room 0 to hallway 0', 'room 1 to hallway 0']
    """
    options = []
    for room in range(4):
        inside = rooms.rooms == room
        doors = (room - 1) % 4, room
        for door, other in (doors, doors[::-1]):
            start = inside.copy()
            start[rooms.hallways[other]] = True
            name = f"room {room} to hallway {door}"
            policy = rooms.way_to(rooms.hallways[door])
            options.append(Option(policy=policy, termination=~inside, initiation=start, name=name))
    return options
