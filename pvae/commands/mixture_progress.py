"""The progress display of ``pvae em`` on standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import click

from pvae.commands.output import print_status
from pvae.logs import is_hidden, is_recorded

__all__ = ["EMProgress"]

_LOG = logging.getLogger(__name__)


class EMProgress:
    """Progress of EM: one line that is rewritten at each step on a terminal, else one line for each start.

    Args:
        enabled: whether to show progress at all.
        max_steps: largest number of steps of one start.
    """

    def __init__(self, *, enabled: bool, max_steps: int) -> None:
        self.enabled = enabled and not is_hidden()
        self.max_steps = max_steps
        self.on_terminal = sys.stderr.isatty() and not is_recorded(_LOG)

    def callback(self, components: int) -> Callable[[int, int, float, bool], None]:
        """Return the function that `GaussianMixture.fit` calls after each step with its argument ``watch``.

        Args:
            components: number of components, for the text.

        Returns:
            A function of the number of the start, the number of the step, the log-likelihood in nats per datum, and
            whether the start has ended.
        """

        def show(start: int, step: int, bound: float, done: bool) -> None:
            line = (
                f"{components} components, start {start + 1}, step {step}/{self.max_steps}: {bound:.4f} nats per datum"
            )
            if self.enabled and self.on_terminal:
                click.echo(f"\r{line:<78}", err=True, nl=done)
            elif self.enabled and done:
                print_status(line)

        return show
