"""The simulation of fronts and workers: against queueing theory, against what was measured, and what it promises."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
import simpy

from scaling.costs import Costs, measured
from scaling.simulation import Setup, simulate
from scaling.stations import MAX_QUEUE, RESTART_S, RETRY_S, Front, Job, Kind, Pool
from scaling.validation import click_loop, encode_loop, erlang_c_wait, mean_wait, pollaczek_wait

COSTS = Costs(
    encode_s=0.1,
    way_s=0,
    wire_bytes=0,
    click_s=0.03,
    click_delay_s=0.01,
    stop_s=0.04,
    disk_bytes=1,
    series_bytes=1,
    read_s=1,
)
SMALL = Setup(annotators=12, workers=2, fronts=1, seconds=60, warm_up=30)


def endless(pool: Pool) -> Job:
    return Job(Kind.BATCH, 1.0, pool.batch_waiting, pool.env.event())


def test_waits_are_those_of_erlang_and_of_pollaczek():
    assert erlang_c_wait(3, 1, 4) == pytest.approx(0.5094, abs=1e-4)  # of the tables: C(4, 3) = 0.5094
    random = mean_wait(28, 4, lambda random: float(random.exponential(0.1)), 60_000)
    assert random == pytest.approx(erlang_c_wait(28, 0.1, 4), rel=0.03)
    constant = mean_wait(7, 1, lambda _: 0.1, 40_000)
    assert constant == pytest.approx(pollaczek_wait(7, 0.1), rel=0.04)


@pytest.mark.parametrize(("repeated", "pace"), [(False, "busy"), (True, "busy"), (True, "paced")])
def test_the_simulated_engine_and_server_are_as_the_measured_ones(repeated, pace):
    facts, costs = measured()["sam_tiny"], Costs.of("sam_tiny", repeated=repeated)
    facts = facts["repeated"] if repeated else facts
    encodes, clicks = facts["closed_loop"], facts["front"][pace]
    for real, simulated in ((encodes, encode_loop(encodes)), (clicks, click_loop(costs, clicks))):
        # The measured clients took a tenth of the two cores; the simulated ones are elsewhere.
        assert simulated["per_s"] == pytest.approx(real["per_s"], rel=0.15)
        assert simulated["p50_s"] == pytest.approx(real["p50_s"], rel=0.2)


def test_the_same_seed_gives_the_same_figures():
    one, same, other = (simulate(COSTS, replace(SMALL, seed=seed)) for seed in (1, 1, 2))
    assert one == same and one != other
    assert one.first and one.further and one.quantile("further", 0.5) >= COSTS.click_s


def test_a_click_waits_for_a_saturating_batch_no_longer_than_that_takes_to_stop():
    env, random = simpy.Environment(), np.random.default_rng(0)
    pool = Pool(env, 3, lambda: float(random.uniform(0, 0.05)), batch=endless)
    taken = []

    def clicks():
        for _ in range(200):
            yield env.timeout(random.exponential(2))
            job, asked = Job(Kind.CLICK, 0.1, pool.clicks, env.event()), env.now
            pool.click(job)
            yield job.done
            taken.append(env.now - asked)

    env.run(env.process(clicks()))
    assert len(taken) == 200 and min(taken) >= 0.1 and max(taken) <= 0.15 + 1e-9
    assert pool.stopped == {Kind.BATCH: 200} and pool.done[Kind.BATCH] > 500


def test_what_was_stopped_is_finished_in_the_end_and_a_batch_goes_before_what_is_encoded_ahead():
    env = simpy.Environment()
    left = deque(range(20))
    pool = Pool(env, 2, lambda: 0.02, batch=lambda pool: endless(pool) if left and left.popleft() >= 0 else None)
    front = Front(pool, replace(COSTS, encode_s=1), ahead=16)
    front.known[0] = set()
    front.encode_ahead(0, [1])

    def click():
        yield env.timeout(0.5)  # one worker encodes ahead, one for the batch
        job = Job(Kind.CLICK, 0.1, pool.clicks, env.event())
        pool.click(job)
        yield job.done
        assert pool.stopped == {Kind.BATCH: 1}

    env.process(click())
    env.run()
    assert pool.done == {Kind.CLICK: 1, Kind.AHEAD: 1, Kind.BATCH: 20} and front.known[0] == {1}


def test_a_users_next_click_stops_what_was_encoded_ahead_and_one_on_that_slice_waits_for_it():
    env = simpy.Environment()
    pool = Pool(env, 1, lambda: 0.02)
    front = Front(pool, replace(COSTS, encode_s=1), ahead=16)
    front.known[0] = set()
    front.encode_ahead(0, [7, 8])

    def user():
        yield env.timeout(0.5)
        yield from front.click(0, 7)
        assert env.now == pytest.approx(1.04)
        yield env.timeout(0.5)
        front.encode_ahead(0, [9])

    env.process(user())
    env.run()
    assert front.known[0] == {7, 9} and pool.stopped == {Kind.AHEAD: 1}


def test_what_a_killed_worker_did_another_one_does():
    env = simpy.Environment()
    pool = Pool(env, 2, lambda: 0.0)
    job = Job(Kind.CLICK, 1.0, pool.clicks, env.event())

    def kill():
        pool.click(job)
        yield env.timeout(0.5)
        pool.end(job.worker, "kill")
        yield job.done
        assert env.now == 1.5

    env.run(env.process(kill()))
    assert simulate(COSTS, replace(SMALL, kill_every_s=5)).quantile("first", 1) < RESTART_S


def test_a_front_refuses_what_is_more_than_its_queue_and_it_is_asked_again():
    env = simpy.Environment()
    front = Front(Pool(env, 1, lambda: 0.0), COSTS, 0)
    front.known[0] = {0}
    for _ in range(MAX_QUEUE + 3):
        env.process(front.click(0, 0))
    env.run()
    assert front.refused == 3 and front.inside == 0 and env.now == pytest.approx(RETRY_S + 3 * 0.03 + 0.01)
