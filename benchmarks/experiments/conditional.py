"""The conditional VAE: the missing quadrants of an image given one, two or three of them."""

from __future__ import annotations

from pathlib import Path

import pvae
from experiments.base import Budget, Claim, Result, Room, mean_error, paired, shown, shuffled, verdicts

BUDGETS = {
    "short": Budget("short", (0, 1, 2), {"images": 10000, "epochs": 10, "limit": 500, "particles": 200}),
    "published": Budget(
        "published", (0, 1, 2, 3, 4), {"images": 50000, "epochs": 50, "limit": 10000, "particles": 5000}
    ),
}


def run(name: str, budget: Budget, folder: Path) -> Result:
    """Train a model for each number of observed quadrants, with a prior given them and without."""
    room, settings = Room(folder / name), budget.settings
    whole = pvae.load_data("mnist_static", validation=0)
    fields = {
        "x": whole.train["x"][: settings["images"]].reshape(-1, 28, 28),
        "x_test": shuffled(whole.test)["x"].reshape(-1, 28, 28),
    }
    data = pvae.load_data(fields, binarise="none", validation=0)

    def measure(observed: int, prior: str, seed: int) -> dict[str, float]:
        spec = pvae.ModelSpec(
            "cvae",
            {
                "condition": "quadrants",
                "observed": observed,
                "prior": prior,
                "latent": 20,
                "hidden": (200, 200),
            },
        )
        run = pvae.fit(spec, data, objective="elbo", epochs=settings["epochs"], seed=seed, progress=False)
        judged = {"limit": settings["limit"], "particles": settings["particles"]}
        evidence = pvae.evaluate.log_evidence(run, data, **judged)
        return {"evidence": evidence.value, "elbo": pvae.evaluate.elbo(run, data, **judged).value}

    kinds = {"learned p(z given c)": "conditional", "standard": "standard"}
    cells = {
        (observed, kind): [
            room.once(
                f"{observed}-{kinds[kind]}-seed{seed}",
                lambda o=observed, k=kind, s=seed: measure(o, kinds[k], s),
            )
            for seed in budget.seeds
        ]
        for observed in (1, 2, 3)
        for kind in kinds
    }
    rows = [("quadrants observed", "prior of z", "minus log p(rest given observed)", "minus ELBO")]
    for (observed, kind), found in cells.items():
        numbers = [shown(*mean_error(-each[what] for each in found)) for what in ("evidence", "elbo")]
        rows.append((str(observed), kind, *numbers))

    def compared(first: tuple[int, str], second: tuple[int, str]) -> tuple[float, float]:
        return paired(*[[each["evidence"] for each in cells[key]] for key in (first, second)])

    first = next(iter(kinds))
    says = [
        Claim(f"{more} quadrants observed against {more - 1}", *compared((more, first), (more - 1, first)), "nats")
        for more in (2, 3)
    ]
    says += [
        Claim(
            f"{observed} observed, learned p(z given c) against the standard prior",
            *compared((observed, first), (observed, "standard")),
            "nats",
        )
        for observed in (1, 2, 3)
    ]
    setting = (
        f"The data are {settings['images']} images of static MNIST, and the networks 784-200-200-20 with tanh. The "
        f"training uses `elbo`, Adam 1e-3, batches of 100, {settings['epochs']} epochs and seeds "
        f"{', '.join(map(str, budget.seeds))}. The table shows nats per image over the quadrants that are not "
        f"observed, on {settings['limit']} test images with {settings['particles']} particles. Standard errors are "
        "over seeds, and differences are paired by seed. Pyro's tutorial publishes 71.8, 51.0 and 24.2 (ELBO of 10 "
        "particles)."
    )
    return Result(setting, tuple(rows), verdicts(says, len(budget.seeds)), room.seconds())
