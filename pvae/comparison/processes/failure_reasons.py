"""The reason why a job has failed, in one line: its error, or how its process has ended."""

from __future__ import annotations

import signal

__all__ = ["describe_exit", "reason_of"]


def reason_of(error: Exception) -> str:
    """Return the error in one line, with its class unless it is an error of pvae, which is written for users."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    return text if type(error).__module__.startswith("pvae.") else f"{type(error).__name__}: {text}"


def describe_exit(code: int | None) -> str:
    """Return how a process has ended, from its exit code in `multiprocessing`."""
    if code is None:
        return "stopped answering"
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was killed by {name}" + (", possibly because there was not enough memory" if name == "SIGKILL" else "")
