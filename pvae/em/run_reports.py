"""Reports on runs of EM: the lines that ``verbose`` prints, and the calls of a user's ``watch`` function."""

from __future__ import annotations

import time
from collections.abc import Callable

from pvae.em.em_run import EMRun

__all__ = ["RunReporter", "Watch"]

#: Called with the number of the run, from 0, that of the step, from 1, the bound in nats per datum, and whether the run
#: has ended.
Watch = Callable[[int, int, float, bool], None]


class RunReporter:
    """Prints the progress of a run as scikit-learn does if ``verbose`` is set, and calls ``watch``.

    Args:
        verbose: 0 prints nothing, 1 prints lines, 2 adds times and changes of the bound.
        interval: number of steps between two lines.
        number: number of the run, from 0.
        watch: called after each step, and once at the end; or None.
    """

    def __init__(self, verbose: int, interval: int, number: int, watch: Watch | None) -> None:
        self.verbose = int(verbose)
        self.interval = interval
        self.number = number
        self.watch = watch
        self.start_time = time.perf_counter()
        self.last_time = self.start_time

    def report_start(self) -> None:
        """Print that the run starts."""
        if self.verbose:
            print(f"Initialization {self.number}")

    def report_step(self, step: int, bound: float, change: float) -> None:
        """Report a step.

        Args:
            step: its number, from 1.
            bound: nats per datum.
            change: of the bound, nats per datum.
        """
        if self.watch is not None:
            self.watch(self.number, step, bound, False)
        if not self.verbose or step % self.interval:
            return
        now = time.perf_counter()
        more = f"\t time lapse {now - self.last_time:.5f}s\t ll change {change:.5f}" if self.verbose > 1 else ""
        print(f"  Iteration {step}{more}")
        self.last_time = now

    def report_end(self, run: EMRun) -> None:
        """Report that the run has ended; a run without steps has nothing to report."""
        if not run.bounds:
            return
        if self.watch is not None:
            self.watch(self.number, len(run.bounds), run.bounds[-1], True)
        if not self.verbose:
            return
        outcome = "converged" if run.converged else "did not converge"
        lapse = time.perf_counter() - self.start_time
        more = f" time lapse {lapse:.5f}s\t lower bound {run.bounds[-1]:.5f}." if self.verbose > 1 else ""
        print(f"Initialization {outcome}.{more}")
