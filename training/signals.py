"""Signals that ask a run to stop: SIGTERM, SIGUSR1 and Ctrl-C."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")  # Windows has no SIGUSR1


class Stopped(Exception):
    """A signal asked the run to stop."""


@dataclass
class StopRequest:
    """A signal handler that only remembers: `received` is True once a signal came."""

    received: bool = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal. A second Ctrl-C raises KeyboardInterrupt, since the run may hang, as
        in a download."""
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt("run the same command with --resume to go on")
        self.received = True


@contextlib.contextmanager
def caught() -> Iterator[StopRequest]:
    """Within the block the signals set `received` of the yielded request; afterwards they do what
    they did before."""
    request = StopRequest()
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    before = {number: signal.signal(number, request) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
