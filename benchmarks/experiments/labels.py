"""Semi-supervised learning: M2 with and without the classifier term, over draws of a hundred labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pvae
from experiments.base import Budget, Claim, Result, Room, mean_error, paired, shown, verdicts
from pvae.evaluate import accuracy

# a draw of labels is the seed of the data; each has a training of its own seed
BUDGETS = {
    "short": Budget("short", (0, 1, 2, 3, 4), {"images": 10000, "labels": 100, "epochs": 10}),
    "published": Budget("published", tuple(range(10)), {"images": 50000, "labels": 100, "epochs": 200}),
}
OBJECTIVES = {
    "classifier alone (supervised)": "semi-supervised:generative=false:weight=1",
    "M2 with the classifier term": "semi-supervised",
    "M2 without it": "semi-supervised:weight=0",
}


def run(name: str, budget: Budget, folder: Path) -> Result:
    """Train each objective on each draw of labels, and judge the classifier on the test images."""
    room, settings = Room(folder / name), budget.settings

    def measure(objective: str, draw: int, factorised: bool) -> float:
        whole = pvae.load_data("mnist", binarise="static", validation=0, seed=draw)
        some, test = whole.train.take(slice(0, settings["images"])), whole.test
        fields = {"x": some["x"], "y": some["y"], "x_test": test["x"], "y_test": test["y"]}
        data = pvae.load_data(fields, binarise="none", validation=0, labels=settings["labels"], seed=draw)
        spec = pvae.ModelSpec("ssvae", {"latent": 20, "hidden": (200,), "activation": "relu", "factorised": factorised})
        run = pvae.fit(spec, data, objective=objective, epochs=settings["epochs"], seed=draw, progress=False)
        return accuracy(run, data).value

    systems: dict[str, tuple[str, bool]] = {label: (text, False) for label, text in OBJECTIVES.items()}
    systems["M2 with it, factorised q"] = (OBJECTIVES["M2 with the classifier term"], True)
    cells: dict[str, Any] = {
        label: [
            room.once(f"{label.replace(' ', '_')}-draw{draw}", lambda s=system, d=draw: measure(s[0], d, s[1]))
            for draw in budget.seeds
        ]
        for label, system in systems.items()
    }
    rows = [("system", "objective", "test accuracy, %", "by draw of labels")]
    for label, found in cells.items():
        every = ", ".join(f"{100 * each:.1f}" for each in found)
        rows.append((label, f"`{systems[label][0]}`", shown(*mean_error(100 * each for each in found), 1), every))
    baseline = cells["classifier alone (supervised)"]
    says = [
        Claim(
            f"{label} against the classifier alone",
            *paired([100 * each for each in cells[label]], [100 * each for each in baseline]),
            "points",
            1,
        )
        for label in list(cells)[1:]
    ]
    setting = (
        f"The data are {settings['images']} images of MNIST with static binarisation; {settings['labels']} of them "
        "keep their label, equally many in each class. The networks are 784-200-20 with relu, and hidden labels are "
        f"enumerated. The training uses Adam 1e-3, batches of 100 and {settings['epochs']} epochs. The labelled "
        f"images are drawn with seeds {', '.join(map(str, budget.seeds))}, and each draw has its own training seed. "
        "Accuracy is measured on 10000 test images. Standard errors are over draws, and differences are paired by "
        "draw."
    )
    return Result(setting, tuple(rows), verdicts(says, len(budget.seeds)), room.seconds())
