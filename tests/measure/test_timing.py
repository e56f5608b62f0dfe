"""Medians in turn."""

import time

from cutaway.measure import medians_in_turn, seconds_in_turn, timed


def test_timers_run_in_turn_and_the_first_rounds_do_not_count() -> None:
    order: list[str] = []
    told = {"a": iter([9.0, 1.0, 2.0, 6.0]), "b": iter([9.0, 5.0, 4.0, 4.5])}

    def timer(name: str) -> float:
        order.append(name)
        return next(told[name])

    found = medians_in_turn({"a": lambda: timer("a"), "b": lambda: timer("b")}, n_rounds=3, n_warmups=1)
    assert found == {"a": 2.0, "b": 4.5}
    assert order == ["a", "b"] * 4


def test_a_function_s_time_is_the_clock_s() -> None:
    times = seconds_in_turn({"short": lambda: None, "long": lambda: time.sleep(0.02)}, n_rounds=1, n_warmups=0)
    assert times["short"] < 0.02 <= times["long"]
    assert timed(lambda: time.sleep(0.01))() >= 0.01
