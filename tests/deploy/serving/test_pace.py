"""Requests are started a few at a time, so that whatever else there is to do never waits for all of them."""

import asyncio
from collections.abc import Callable, Sequence

from deploy.serving.pace import AT_ONCE, Pace


def started(asked: Sequence[tuple[int, str]], turns: int) -> list[list[str]]:
    """Who was started in which turn of the event loop, of those who asked in a turn, in this order."""
    found: list[list[str]] = []

    async def ask() -> None:
        loop, pace = asyncio.get_running_loop(), Pace()

        def next_turn() -> None:
            found.append([])
            loop.call_soon(next_turn)  # ahead of everything else in the next turn

        def note(client: str) -> Callable[[], None]:
            return lambda: found[-1].append(client)

        next_turn()
        for turn in range(turns):
            for client in (client for at, client in asked if at == turn):
                pace.start(client, note(client))
            await asyncio.sleep(0)

    asyncio.run(ask())
    return found[:turns]


def test_a_few_start_at_once_and_the_rest_in_the_turns_that_follow() -> None:
    found = started([(0, "a")] * (2 * AT_ONCE + 1) + [(5, "b")], 7)
    assert [len(turn) for turn in found] == [AT_ONCE, AT_ONCE, 1, 0, 0, 1, 0]


def test_what_comes_later_waits_behind_what_waits_already() -> None:
    found = started([(0, "a")] * (2 * AT_ONCE) + [(1, "a")] * AT_ONCE, 4)
    assert [len(turn) for turn in found] == [AT_ONCE, AT_ONCE, AT_ONCE, 0]


def test_clients_take_turns() -> None:
    found = started([(0, "many")] * (5 * AT_ONCE) + [(0, "few")], 6)
    assert "few" in found[1]
