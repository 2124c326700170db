"""Beta above one: what it does to disentanglement, on sprites whose factors are known."""

from __future__ import annotations

from pathlib import Path

import pvae
from experiments.base import Budget, Claim, Result, Room, mean_error, paired, shown, verdicts

BETAS = (1.0, 2.0, 4.0, 8.0)
METRICS = ("mig", "disentanglement", "completeness", "informativeness")
BUDGETS = {
    "short": Budget("short", (0, 1, 2, 3, 4), {"epochs": 200}),
    "published": Budget("published", tuple(range(10)), {"epochs": 3000}),
}


def run(name: str, budget: Budget, folder: Path) -> Result:
    """Train at each beta and seed, and judge the codes of all sprites."""
    room = Room(folder / name)
    data = pvae.load_data("sprites", validation=0, test=0)

    def measure(beta: float, seed: int) -> dict[str, float]:
        spec = pvae.ModelSpec("vae", {"latent": 6, "hidden": (128, 128), "activation": "relu"})
        run = pvae.fit(
            spec, data, objective=f"beta:beta={beta}", epochs=budget.settings["epochs"], seed=seed, progress=False
        )
        found = pvae.evaluate.disentanglement(run, data, split="train")
        elbo = pvae.evaluate.elbo(run, data, particles=20, split="train")
        return {**{each: getattr(found, each) for each in METRICS}, "elbo": elbo.value}

    cells = {
        beta: [room.once(f"beta{beta}-seed{seed}", lambda b=beta, s=seed: measure(b, s)) for seed in budget.seeds]
        for beta in BETAS
    }
    rows = [("beta", "MIG", "D of DCI", "C of DCI", "I of DCI", "ELBO at beta = 1, nats")]
    for beta, found in cells.items():
        numbers = [shown(*mean_error(each[metric] for each in found), 3) for metric in METRICS]
        rows.append((f"{beta:g}", *numbers, shown(*mean_error(each["elbo"] for each in found))))
    says = [
        Claim(
            f"{metric} at beta {beta:g} against 1",
            *paired([each[metric] for each in cells[beta]], [each[metric] for each in cells[1.0]]),
            "",
            3,
        )
        for beta in BETAS[1:]
        for metric in ("mig", "disentanglement")
    ]
    setting = (
        "The data are 729 sprites of 16 x 16 pixels (three shapes, three sizes, nine columns, nine rows), and the "
        f"networks 256-128-128-6 with relu. The training uses Adam 1e-3, batches of 100, {budget.settings['epochs']} "
        f"epochs and, for each beta, the seeds {', '.join(map(str, budget.seeds))}. MIG and DCI are computed from "
        "the mean codes of all sprites; 1 is best. Standard errors are over seeds, and differences are paired by "
        "seed."
    )
    return Result(setting, tuple(rows), verdicts(says, len(budget.seeds)), room.seconds())
