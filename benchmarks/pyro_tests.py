"""Pyro's own tests, with Pyro's losses as they are (control) and behind pvae's `adapt` (adapted).

The script needs a checkout of Pyro, of a version near the installed one, with its `tests/`; without one it says so and
ends. Each file of tests runs twice, each time in a process of its own. In the second run every loss that a test takes
from `pyro.infer` is an objective of pvae. The script prints the counts of both runs, and the
tests that only fail when adapted.

    python benchmarks/pyro_tests.py CHECKOUT [--files test_gradient,test_enum] [--workers 1] [--out FOLDER] [-k NAMES]

`--out` keeps the outcomes as JSON; a second call with the same folder runs only what is missing there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

FILES = ("test_valid_models", "test_gradient", "test_enum", "test_autoguide", "test_predictive")
VARIANTS = ("control", "adapted")
OUTCOMES, VARIANT = "PYRO_TESTS_OUTCOMES", "PYRO_TESTS_VARIANT"


def adapted_class(original: type) -> type:
    """Return a class that is made like a loss of Pyro and returns the adapted loss; tests compare the classes."""
    from pvae.objectives import adapt

    class Adapted:
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return adapt(original(*args, **kwargs))

    Adapted.__name__ = Adapted.__qualname__ = original.__name__
    return Adapted


def adapt_losses() -> None:
    """Replace the losses in `pyro.infer` and its modules; pvae and Pyro keep the references that they have."""
    import pyro.infer

    import pvae.evaluate
    import pvae.train  # noqa: F401

    modules = [module for name, module in sys.modules.items() if name.startswith("pyro.infer.trace")]
    modules += [sys.modules["pyro.infer.renyi_elbo"], sys.modules["pyro.infer.rws"]]
    modules += [sys.modules["pyro.infer.energy_distance"], pyro.infer]
    losses = {name: value for name, value in vars(pyro.infer).items() if is_loss(name, value)}
    adapted = {name: adapted_class(value) for name, value in losses.items()}
    for module in modules:
        for name, value in adapted.items():
            if getattr(module, name, None) is losses[name]:
                setattr(module, name, value)


def is_loss(name: str, value: Any) -> bool:
    """Return whether a name of `pyro.infer` is a loss that can be made."""
    from pyro.infer import ELBO, EnergyDistance

    return isinstance(value, type) and value is not ELBO and issubclass(value, ELBO | EnergyDistance)


class Recorder:
    """A plugin of pytest that writes the outcome of each test as a line of JSON."""

    def __init__(self, path: str) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        reason = "" if report.outcome != "failed" else str(report.longrepr).strip().splitlines()[-1]
        row = {"test": report.nodeid, "outcome": report.outcome, "xfail": hasattr(report, "wasxfail"), "reason": reason}
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")


def pytest_configure(config: Any) -> None:
    """Start as a plugin of pytest, in each of its processes (`-p pyro_tests`)."""
    if os.environ.get(VARIANT) == "adapted":
        adapt_losses()
    if not hasattr(config, "workerinput"):  # with xdist, the main process receives all reports
        config.pluginmanager.register(Recorder(os.environ[OUTCOMES]))


def run_file(checkout: Path, name: str, variant: str, path: Path, options: argparse.Namespace) -> None:
    """Run one file of Pyro's tests in a process of its own; the outcomes go to `path`."""
    unfinished = path.with_suffix(".part")
    unfinished.unlink(missing_ok=True)
    here = Path(__file__).parent
    environment = dict(os.environ) | {OUTCOMES: str(unfinished), VARIANT: variant}
    environment["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent), str(checkout)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pyro_tests", "-p", "no:cacheprovider", "--tb=short"]
    command += [f"tests/infer/{name}.py", *(["-n", str(options.workers)] if options.workers > 1 else [])]
    command += ["-k", options.k] if options.k else []
    log = path.with_suffix(".log")
    with log.open("w") as file:
        subprocess.run(command, cwd=checkout, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False)
    if not unfinished.exists():
        raise SystemExit(f"No test of {name} ran; see {log}.")
    unfinished.rename(path)


def read_outcomes(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a file by test; a failure outside the call of a test replaces its outcome."""
    outcomes: dict[str, dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if outcomes.get(row["test"], {}).get("outcome") != "failed":
            outcomes[row["test"]] = row
    return outcomes


def print_file(name: str, control: dict[str, Any], adapted: dict[str, Any]) -> int:
    """Print the counts of one file and the tests that only fail when adapted; return their number."""
    for variant, rows in zip(VARIANTS, (control, adapted), strict=True):
        counts = Counter(row["outcome"] for row in rows.values())
        text = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))
        print(f"{name}, {variant}: {text}")
    missing = control.keys() ^ adapted.keys()
    if missing:
        print(f"  {len(missing)} tests ran in one of both only, such as {min(missing)}")
    worse = [test for test in control if control[test]["outcome"] != "failed" and is_failed(adapted, test)]
    for test in worse:
        print(f"  only adapted: {test.partition('::')[2]}\n    {adapted[test]['reason'][:300]}")
    return len(worse)


def is_failed(rows: dict[str, Any], test: str) -> bool:
    """Return whether a test failed."""
    return test in rows and rows[test]["outcome"] == "failed"


def main() -> None:
    """Run the files and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="a checkout of Pyro")
    parser.add_argument("--files", default=",".join(FILES), help="names of files in tests/infer, without .py")
    parser.add_argument("--workers", type=int, default=1, help="processes of pytest-xdist")
    parser.add_argument("--out", type=Path, help="a folder for the outcomes")
    parser.add_argument("-k", default="", help="the names of the tests to run, as for pytest")
    options = parser.parse_args()
    checkout = options.checkout.resolve()
    if not (checkout / "tests" / "infer").is_dir():
        print(f"Skipped: {checkout} has no folder tests/infer. Give a checkout of Pyro (github.com/pyro-ppl/pyro).")
        return
    out = Path(tempfile.mkdtemp()) if options.out is None else options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    worse = 0
    for name in options.files.split(","):
        paths = [out / f"{name}-{variant}.jsonl" for variant in VARIANTS]
        for variant, path in zip(VARIANTS, paths, strict=True):
            if not path.exists():
                run_file(checkout, name, variant, path, options)
        worse += print_file(name, *map(read_outcomes, paths))
    print(f"{worse} tests fail only when adapted.")


if __name__ == "__main__":
    main()
