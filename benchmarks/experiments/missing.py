"""Inpainting: log-likelihood of missing pixels by a masked VAE, and by filling in the mean or a neighbour."""

from __future__ import annotations

from pathlib import Path

import pvae
from experiments.base import Budget, Claim, Result, Room, mean_error, paired, shown, shuffled, verdicts
from pvae.evaluate import masking_divergence, missing_log_likelihood
from pvae.evaluate.simple_imputation import filled_log_likelihood, mean_filling, nearest_neighbour_filling

BUDGETS = {
    "short": Budget("short", (0, 1, 2), {"images": 10000, "epochs": 10, "limit": 500, "particles": 200}),
    "published": Budget(
        "published", (0, 1, 2, 3, 4), {"images": 50000, "epochs": 500, "limit": 10000, "particles": 5000}
    ),
}
MASKS = ("block", "pixels", "quadrants")


def run(name: str, budget: Budget, folder: Path) -> Result:
    """Train a masked VAE for each kind of mask and seed, and judge the missing pixels of test images."""
    room, settings = Room(folder / name), budget.settings
    whole = pvae.load_data("mnist_static", validation=0)
    some, limit = whole.train.take(slice(0, settings["images"])), settings["limit"]

    def measure(mask: str, seed: int) -> dict[str, float]:
        fields = {"x": some["x"].reshape(-1, 28, 28), "x_test": shuffled(whole.test)["x"].reshape(-1, 28, 28)}
        data = pvae.load_data(fields, binarise="none", validation=0, mask=mask, seed=seed)
        spec = pvae.ModelSpec("masked-vae", {"latent": 20, "hidden": (200, 200)})
        run = pvae.fit(spec, data, objective="elbo", epochs=settings["epochs"], seed=seed, progress=False)
        judged = data.test.take(slice(0, limit))
        ours = missing_log_likelihood(run, judged, particles=settings["particles"])
        divergence = masking_divergence(run, judged)
        return {
            "masked VAE": ours.value,
            "mean filling": filled_log_likelihood(mean_filling(some, judged), judged).value,
            "nearest neighbour": filled_log_likelihood(nearest_neighbour_filling(some, judged), judged).value,
            "kl": divergence.value,
        }

    cells = {
        mask: [room.once(f"{mask}-seed{seed}", lambda m=mask, s=seed: measure(m, s)) for seed in budget.seeds]
        for mask in MASKS
    }
    systems = ("masked VAE", "mean filling", "nearest neighbour")
    rows = [("mask", *systems, "KL(q(z given observed) to q(z given x))")]
    for mask, found in cells.items():
        numbers = [shown(*mean_error(each[system] for each in found), 4) for system in systems]
        rows.append((f"`{mask}`", *numbers, shown(*mean_error(each["kl"] for each in found), 1)))
    says = [
        Claim(
            f"`{mask}`, masked VAE against {system}",
            *paired([each["masked VAE"] for each in found], [each[system] for each in found]),
            "nats per missing pixel",
            4,
        )
        for mask, found in cells.items()
        for system in systems[1:]
    ]
    setting = (
        f"The data are {settings['images']} images of static MNIST. Masks of training images are drawn at every use, "
        "and a tenth of these images keeps all pixels; masks of test images are fixed. The networks are "
        "784-200-200-20 with tanh, and the encoder gets the mask. The training uses `elbo`, Adam 1e-3, batches of "
        f"100, {settings['epochs']} epochs and seeds {', '.join(map(str, budget.seeds))}, for training and masks. "
        f"The table shows the log-likelihood in nats per missing pixel of {limit} test images, with "
        f"{settings['particles']} particles for the VAE; the values of the two simple methods are probabilities, "
        "limited to [0.01, 0.99]. The last column is a divergence in nats per image. Standard errors are over "
        "seeds, and differences are paired by seed."
    )
    return Result(setting, tuple(rows), verdicts(says, len(budget.seeds)), room.seconds())
