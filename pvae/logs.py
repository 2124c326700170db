"""Lines of progress: printed on standard error, or given to Python's logging where a program has configured it.

Every file logs under its own name, such as ``pvae.train.plans``. Lines of progress are of level INFO; details, such as
the choice of a graph and the time of a phase, are of level DEBUG. A program that has called
``logging.basicConfig(level=logging.INFO)`` gets them as records, and pvae does not print them as well. With
``logging.getLogger("pvae").setLevel(logging.WARNING)``, there are none.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["PACKAGE", "is_hidden", "is_recorded", "say", "timed"]

#: The logger of the package, of which every logger of pvae is a child.
PACKAGE = logging.getLogger("pvae")


def is_hidden() -> bool:
    """Return whether the level of the package's logger hides lines of progress."""
    return PACKAGE.level > logging.INFO


def is_recorded(logger: logging.Logger) -> bool:
    """Return whether logging is configured so that lines of progress of a file get to a handler.

    Args:
        logger: the logger of the file.
    """
    current: logging.Logger | None = logger if logger.isEnabledFor(logging.INFO) else None
    while current is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in current.handlers):
            return True
        current = current.parent if current.propagate else None
    return False


def say(logger: logging.Logger, text: str) -> None:
    """Give a line of progress to the handlers of logging if it is configured; otherwise print it on standard error.

    Args:
        logger: the logger of the file that reports the line.
        text: the line.
    """
    if is_recorded(logger):
        logger.info("%s", text)
    elif not is_hidden():
        print(text, file=sys.stderr, flush=True)


@contextmanager
def timed(logger: logging.Logger, phase: str) -> Iterator[None]:
    """Log the time of a block at level DEBUG, also if it raises.

    Args:
        logger: the logger of the file.
        phase: what the block does, such as ``"evaluate 100 data"``.
    """
    begun = time.monotonic()
    try:
        yield
    finally:
        logger.debug("%s: %.3f s", phase, time.monotonic() - begun)
