"""The backoff's shape: bounded, growing, jittered, and forgotten only after lasting success."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.retry import Backoff, BackoffPolicy

seconds = st.floats(0.001, 1000)
policies = st.builds(
    lambda first, least, cap: BackoffPolicy(first_s=first, least_s=min(least, cap), cap_s=cap), seconds, st.floats(0.001, 1), seconds
)


def ceiling(_low: float, high: float) -> float:
    return high


@given(policies, st.integers(0, 2**32), st.integers(1, 200))
def test_every_delay_lies_between_the_least_and_the_cap(policy: BackoffPolicy, seed: int, attempts: int) -> None:
    backoff = Backoff(policy, random.Random(seed).uniform)
    assert all(policy.least_s <= backoff.next_delay() <= max(policy.cap_s, policy.least_s) for _ in range(attempts))


@given(policies)
def test_ceilings_double_from_the_first_to_the_cap_and_stay_there(policy: BackoffPolicy) -> None:
    backoff = Backoff(policy, ceiling)
    delays = [backoff.next_delay() for _ in range(100)]
    assert delays[0] == max(policy.least_s, min(policy.cap_s, policy.first_s))
    assert delays == sorted(delays)
    assert delays[-1] == policy.cap_s
    doubling = [(one, two) for one, two in itertools.pairwise(delays) if policy.least_s < one and two < policy.cap_s]
    assert all(two == 2 * one for one, two in doubling)


def test_two_that_fail_together_do_not_come_back_together() -> None:
    policy = BackoffPolicy()
    one, two = Backoff(policy, random.Random(1).uniform), Backoff(policy, random.Random(2).uniform)
    assert [one.next_delay() for _ in range(5)] != [two.next_delay() for _ in range(5)]


def test_thousands_of_attempts_do_not_overflow() -> None:
    backoff = Backoff(BackoffPolicy(), ceiling)
    assert [backoff.next_delay() for _ in range(5000)][-1] == 30.0


@given(st.integers(1, 20), st.floats(0, 1e6), st.floats(0, 100))
def test_attempts_are_forgotten_only_after_success_that_lasted(failures: int, now: float, lasted: float) -> None:
    policy = BackoffPolicy(first_s=1, cap_s=2.0**30, stable_s=10)
    backoff = Backoff(policy, ceiling)
    for _ in range(failures):
        backoff.next_delay()
    backoff.up(now)
    backoff.up(now + lasted / 2)  # still up: the clock is not started anew
    backoff.down(now + lasted)
    stable = now + lasted - now >= 10
    assert backoff.next_delay() == (1 if stable else 2**failures)


def test_failing_without_success_in_between_forgets_nothing() -> None:
    backoff = Backoff(BackoffPolicy(first_s=1), ceiling)
    backoff.next_delay()
    backoff.down(1e9)
    backoff.up(0)
    backoff.down(1)
    backoff.down(1e9)  # was down already: the up of long ago does not count
    assert backoff.next_delay() == 2
