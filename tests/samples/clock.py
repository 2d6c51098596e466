"""A clock that moves only when a test moves it."""

import pytest


class Clock:
    """Starts at `seconds`; add to it. `reads` counts how often it was looked at."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.reads = 0

    def replace(self, monkeypatch: pytest.MonkeyPatch, *places: str) -> None:
        """Put it in place of functions of `time`, named by their module and the name that they have there."""
        for place in places:
            monkeypatch.setattr(place, self._nanoseconds if place.endswith("_ns") else self._now)

    def _now(self) -> float:
        self.reads += 1
        return self.seconds

    def _nanoseconds(self) -> int:
        return round(self._now() * 1e9)
