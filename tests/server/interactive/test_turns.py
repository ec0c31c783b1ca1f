"""Turns of one session: one request at a time, and between them what was left undone."""

from __future__ import annotations

import asyncio
import time

import pytest

from lib.base.clock import ClientDisconnectedError, Clock, current_clock, use_clock
from lib.base.threads import restarts
from lib.server.interactive.turns import Turns


def until_ended() -> None:
    """Work without an end, which looks at its clock."""
    while True:
        current_clock().check()
        time.sleep(0.005)


def test_requests_take_turns_in_their_order_and_the_wait_is_counted():
    async def run() -> tuple[list[str], float]:
        turns, order, clock = Turns(), [], Clock()

        async def ask(name: str, seconds: float) -> None:
            async with turns.next():
                order.append(f"{name} begins")
                await asyncio.sleep(seconds)
                order.append(f"{name} ends")

        with use_clock(clock):
            await asyncio.gather(ask("a", 0.05), ask("b", 0.0), ask("c", 0.0))
        return order, clock.stages["wait"]

    order, waited = asyncio.run(run())
    assert order == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]
    assert waited >= 0.1  # b and c together


def test_the_next_request_ends_what_goes_on_and_later_it_goes_on_again():
    begun = []

    def work() -> None:
        begun.append(current_clock())
        until_ended()

    async def run() -> tuple[float, int]:
        turns = Turns()
        turns.go_on(work)
        while not begun:
            await asyncio.sleep(0.005)
        asked = time.monotonic()
        async with turns.next():
            waited = time.monotonic() - asked
            turns.go_on(work)
        while len(begun) < 2:
            await asyncio.sleep(0.005)
        turns.end()
        async with turns.next():
            turns.go_on(work)  # has no effect any more
        await asyncio.sleep(0.05)
        return waited, len(begun)

    waited, times = asyncio.run(run())
    assert waited < 1 and times == 2
    assert begun[0].is_cancelled and begun[1].is_cancelled


def test_nothing_goes_on_while_a_request_waits():
    begun = []

    async def run() -> None:
        turns = Turns()

        async def ask() -> None:
            async with turns.next():
                await asyncio.sleep(0.01)

        async with turns.next():
            turns.go_on(lambda: begun.append(True))
            waiting = asyncio.create_task(ask())
            await asyncio.sleep(0.01)
        await waiting

    asyncio.run(run())
    assert not begun


def test_a_failure_of_what_goes_on_is_counted_and_leaves_the_turn_free():
    async def run() -> None:
        turns = Turns()
        turns.go_on(lambda: 1 // 0)
        await asyncio.sleep(0.05)
        async with turns.next():
            pass

    before = restarts().get("interactive-rest", 0)
    asyncio.run(asyncio.wait_for(run(), 5))
    assert restarts()["interactive-rest"] == before + 1


def test_a_request_whose_client_has_left_does_not_get_its_turn_and_blocks_nobody():
    async def run() -> None:
        turns, gone = Turns(), Clock()

        async def ask() -> None:
            with use_clock(gone):
                async with turns.next():
                    pytest.fail("it got its turn")

        async with turns.next():
            waiting = asyncio.create_task(ask())
            await asyncio.sleep(0.01)
            gone.cancel()
        with pytest.raises(ClientDisconnectedError):
            await waiting
        async with turns.next():
            pass

    asyncio.run(asyncio.wait_for(run(), 5))
