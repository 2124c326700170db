"""Measure the built-in systems on real data, with budgets that are fixed in advance, and write docs/results.md.

    PVAE_DATA=... python benchmarks/systems.py evidence blur [--budget short] [--out reports/systems]
    python benchmarks/systems.py --write docs/results.md          # write the page from the results

Each experiment keeps the results of its cells in a folder; an interrupted experiment continues from there. The budget
``short`` takes minutes on two cores; ``published`` has the settings of the papers, for a CUDA device.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from experiments import adversarial, blur, conditional, evidence, factors, labels, missing
from experiments.base import Budget, Result, table

HERE = Path(__file__).resolve().parent
Run = Callable[[str, Budget, Path], Result]

# name: heading, function that runs the experiment, its budgets
EXPERIMENTS: dict[str, tuple[str, Run, dict[str, Budget]]] = {
    "evidence": ("Priors, posteriors and layers", evidence.run, evidence.BUDGETS),
    "labels": ("A hundred labels", labels.run, labels.BUDGETS),
    "quadrants": ("Conditional on quadrants", conditional.run, conditional.BUDGETS),
    "inpainting": ("Inpainting", missing.run, missing.BUDGETS),
    "aggregate": ("AAE and the aggregate posterior", adversarial.aggregate, adversarial.AAE_BUDGETS),
    "features": ("ALI and its codes", adversarial.features, adversarial.ALI_BUDGETS),
    "coverage": ("GAN and its classes", adversarial.coverage, adversarial.GAN_BUDGETS),
    "disentanglement": ("Beta and disentanglement", factors.run, factors.BUDGETS),
    "blur": ("Likelihood, decoder and blur", blur.run, blur.BUDGETS),
}


def measure(name: str, budget: str, folder: Path) -> None:
    """Run one experiment, and write its result to ``benchmarks/results``."""
    heading, run, budgets = EXPERIMENTS[name]
    begun = time.monotonic()
    result = run(name, budgets[budget], folder / budget)
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"a CPU ({platform.machine()}, threads: {torch.get_num_threads()})"
    )
    record = {
        "heading": heading,
        "command": f"python benchmarks/systems.py {name}" + (f" --budget {budget}" if budget != "short" else ""),
        "budget": budget,
        "date": date.today().isoformat(),
        "machine": f"{device}, torch {torch.__version__}, Pyro {version('pyro-ppl')}",
        **asdict(result),
        "seconds": result.seconds or time.monotonic() - begun,
    }
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / f"{name}-{budget}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{result.setting}\n\n{table(result.table)}\n")
    print("\n".join(f"- {line}" for line in result.says))


def page() -> str:
    """Return the page of all results."""
    parts = [(HERE / "results" / "introduction.md").read_text().strip()]
    for name in EXPERIMENTS:
        for budget in ("short", "published"):
            path = HERE / "results" / f"{name}-{budget}.json"
            if not path.exists():
                continue
            record = json.loads(path.read_text())
            suffix = "" if budget == "short" else ", the published setting"
            says = "\n".join(f"- {line}" for line in record["says"])
            parts.append(
                f"## {record['heading']}{suffix}\n\n{record['setting']}\n\n```\n{record['command']}\n```\n\n"
                f"{table(record['table'])}\n\n{says}\n\nThis was measured on {record['date']} on {record['machine']}. "
                f"All cells together took {record['seconds'] / 60:.0f} minutes of wall time, while other work ran on "
                "the machine."
            )
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Run the experiments that are named, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", choices=[*EXPERIMENTS, []], help=f"of: {', '.join(EXPERIMENTS)}")
    parser.add_argument("--budget", choices=("short", "published"), default="short")
    parser.add_argument("--out", type=Path, default=Path("reports/systems"), help="folder of the cells")
    parser.add_argument("--write", type=Path, help="write the page of all results to this file")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.experiments and options.write is None:
        parser.error("name an experiment, or --write FILE")
    for name in options.experiments:
        measure(name, options.budget, options.out)
    if options.write is not None:
        options.write.write_text(page())
        print(options.write, file=sys.stderr)


if __name__ == "__main__":
    main()
