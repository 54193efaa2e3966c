"""What a class of bad input is, and how its cases are tried: none may hang, and none may end in another way."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

SECONDS = 60  # for one case; most take milliseconds


@dataclass(frozen=True)
class BadInput:
    """A class of bad input: `check` raises AssertionError unless a case of `cases` gives what it `must`.

    `check` returns how many cases it was, None for one. `share` says how many are tried, against other classes.
    """

    name: str
    must: str
    cases: SearchStrategy
    check: Callable[[Any], int | None]
    share: float = 1.0


@dataclass
class Tried:
    """How many cases of a class were tried, and how many ended in another way than they must."""

    cases: int = 0
    wrong: int = 0


def try_cases(bad: BadInput, examples: int) -> Tried:
    """Try so many examples, always the same ones; raises what the first wrong one raises, with the count so far."""
    tried = Tried()

    @settings(
        max_examples=max(1, round(examples * bad.share)),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(bad.cases)
    def one(case: Any) -> None:
        with time_limit():
            count = bad.check(case)
        tried.cases += 1 if count is None else count

    try:
        one()
    except Exception as error:
        error.add_note(f"after {tried.cases} cases of {bad.name!r}, which must give: {bad.must}")
        raise
    return tried


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise AssertionError after `SECONDS`."""

    def too_long(*_: Any) -> None:
        raise AssertionError(f"not done within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(error: type[Exception], say: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Assert that a call raises exactly such an error, whose text is short and says so (a regular expression)."""
    with pytest.raises(error, match=say) as caught:
        function(*args, **kwargs)
    assert caught.type.__module__.startswith("docfloqa."), caught.type
    assert len(str(caught.value)) < 5000
