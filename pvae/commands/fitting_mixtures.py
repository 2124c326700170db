"""``pvae em``: a Gaussian mixture fitted by EM, for a number of components or the best of several."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pvae.commands.output import lines, print_json, say, table
from pvae.commands.shared_options import Setting, config_option, traceback_option
from pvae.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from pvae.batch import Batch
    from pvae.data import Splits
    from pvae.em import GaussianMixture

__all__ = ["em"]

CRITERIA = ("bic", "aic", "held-out")
MISSING = click.Choice(["error", "marginalise"])
#: Grey levels are in [0, 1]: this is a deviation of 3%, about what 16 levels round away.
PICTURE_VARIANCE = 1e-3


@click.command(short_help="Fit a Gaussian mixture by EM.")
@click.option("--data", default="digits", show_default=True, help="A name, or a .npz, .npy or .csv file.")
@click.option("--data-folder", type=click.Path(), default=None, help="Folder with data sets, before $PVAE_DATA.")
@click.option("--data-seed", type=int, default=0, show_default=True, help="Seed of the splits.")
@click.option("--components", type=click.IntRange(min=1), default=10, show_default=True, help="How many.")
@click.option(
    "--covariance", type=click.Choice(["full", "tied", "diag", "spherical"]), default="full", show_default=True
)
@click.option("--select", default=None, metavar="FROM:TO", help="Numbers of components to choose from: 2:30, 2:30:4.")
@click.option("--by", type=click.Choice(CRITERIA), default="bic", show_default=True, help="How --select chooses.")
@click.option("--starts", type=click.IntRange(min=1), default=1, show_default=True, help="Starts; the best is kept.")
@click.option(
    "--init",
    type=click.Choice(["kmeans", "k-means++", "random", "random_from_data"]),
    default="kmeans",
    show_default=True,
    help="Where a start comes from.",
)
@click.option("--max-iter", type=click.IntRange(min=0), default=200, show_default=True, help="Most steps of EM.")
@click.option("--tol", type=float, default=1e-4, show_default=True, help="Least gain of a step, nats per datum.")
@click.option(
    "--reg-covar",
    type=Setting(),
    default=None,
    help="Added to variances: a number, or relative, a millionth of each feature's. [default: 1e-3 for pictures, "
    "else relative]",
)
@click.option("--missing", type=MISSING, default="error", show_default=True, help="Integrate out NaN and empty cells.")
@click.option("--merge", type=float, default=None, help="Merge components that overlap by more, in (0, 1).")
@click.option("--split-merge", type=int, default=0, show_default=True, help="Split-and-merge moves to try.")
@click.option("--device", default=None, help="cpu, cuda. [default: cpu]")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the starts.")
@click.option("--out", type=click.Path(), default=None, help="Folder for parameters and figures. [default: none]")
@click.option("--progress/--no-progress", default=None, help="How far it is, on standard error.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@config_option
@traceback_option
def em(as_json: bool, out: str | None, select: str | None, by: str, **options: Any) -> None:
    """Fit a Gaussian mixture to the training split by EM, and judge it on the others, in nats per datum.

    With --out it writes mixture.safetensors, em.json and figures: components as pictures where data are pictures,
    else ellipses; criteria against the number of components; the history.
    """
    counts = [options["components"]] if select is None else _counts(select)
    folder = _fresh(out)
    splits, parts = _data(options)
    if by == "held-out" and "validation" not in parts:
        raise InputError(f"--by held-out needs a validation split, and {splits.name} has none; use --by bic.")
    if options["reg_covar"] is None:
        # Pixels that never vary in the training split may do so in another, which a tiny variance would punish.
        options["reg_covar"] = PICTURE_VARIANCE if len(splits.data_shape) > 1 else "relative"
    watch = _Progress(options["progress"], int(options["max_iter"]))
    fits = [_fit(parts, count, options, watch) for count in counts]
    mixture, record = min(fits, key=lambda fit: _criterion(fit[1], by))
    settings = {name: options[name] for name in ("covariance", "reg_covar", "missing", "merge", "split_merge", "seed")}
    result = {"data_set": splits.summary(), **settings, **record}
    if select is not None:
        result["selection"] = {"by": by, "fits": [{name: each[name] for name in _SHORT} for _, each in fits]}
    for note in record["notes"]:
        say(f"pvae: warning: {note}")
    if folder is not None:
        result["out"] = str(folder)
        _write(folder, result, mixture, splits, parts["train"])
    if as_json:
        print_json(result)
    else:
        click.echo(_text(result))


_SHORT = ("asked", "components", "bic", "aic", "log_likelihood", "steps", "converged", "seconds")


def _counts(text: str) -> list[int]:
    """Return the numbers of components meant: ``2:5`` is 2, 3, 4, 5; ``2:9:3`` is 2, 5, 8; ``2,4`` is itself."""
    try:
        if "," in text or ":" not in text:
            found = [int(part) for part in text.split(",") if part.strip()]
        else:
            first, last, *step = (int(part) for part in text.split(":"))
            found = list(range(first, last + 1, *step))
    except (TypeError, ValueError):
        found = []
    if not found or min(found) < 1:
        raise InputError(f"--select takes numbers of components from 1 up, such as 2:30 or 2,5,10; got {text!r}.")
    return found


def _fresh(out: str | None) -> Path | None:
    if out is None:
        return None
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already, and was not changed. Name another with --out.")
    return folder


def _criterion(record: dict[str, Any], by: str) -> float:
    """What the choice makes small."""
    return -record["log_likelihood"]["validation"].value if by == "held-out" else record[by]


def _data(options: dict[str, Any]) -> tuple[Splits, dict[str, np.ndarray]]:
    """Return the splits, and the x of each as a table of float64."""
    from pvae.data import load_data

    splits = load_data(
        options["data"],
        binarise="none",
        seed=options["data_seed"],
        folder=options["data_folder"],
        missing="error" if options["missing"] == "error" else "mask",
    )
    held = {name: part for name, part in splits.parts.items() if part is not None}
    return splits, {name: _table(part, options["missing"]) for name, part in held.items()}


def _table(part: Batch, missing: str) -> np.ndarray:
    """Return x, (data, features), float64, with NaN where a mask says that a value is missing."""
    x = part.x.double()
    if "mask" in part and not bool((part.mask == 1).all()):
        if missing == "error":
            raise InputError("The data's mask says that values are missing; --missing marginalise integrates them out.")
        x = x.masked_fill(part.mask == 0, float("nan"))
    return x.reshape(part.size, -1).numpy()


def _fit(
    parts: dict[str, np.ndarray], components: int, options: dict[str, Any], watch: _Progress
) -> tuple[GaussianMixture, dict[str, Any]]:
    """Return a fitted mixture, and what is told of it."""
    from pvae.em import GaussianMixture

    mixture = GaussianMixture(
        components,
        covariance_type=options["covariance"],
        n_init=options["starts"],
        init_params=options["init"],
        device=options["device"],
        random_state=options["seed"],
        **{name: options[name] for name in ("max_iter", "tol", "reg_covar", "missing", "merge", "split_merge")},
    )
    begun = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mixture.fit(parts["train"], watch=watch.of(components))
    record = _record(mixture, parts, time.perf_counter() - begun)
    return mixture, record | {"notes": [str(each.message) for each in caught]}


def _record(mixture: GaussianMixture, parts: dict[str, np.ndarray], seconds: float) -> dict[str, Any]:
    import torch

    from pvae.evaluate import Estimate

    train = parts["train"]
    return {
        "components": len(mixture.weights_),
        "asked": mixture.n_components,
        "steps": mixture.n_iter_,
        "converged": mixture.converged_,
        "seconds": seconds,
        "log_likelihood": {
            name: Estimate.mean_of(torch.as_tensor(mixture.score_samples(x))) for name, x in parts.items()
        },
        "bic": mixture.bic(train),
        "aic": mixture.aic(train),
        "weights": mixture.weights_,
        "n_effective": mixture.n_effective_,
        "status": mixture.status_,
        "merged": mixture.merged_,
        "split_merges": [asdict(move) for move in mixture.split_merges_],
        "lower_bounds": mixture.lower_bounds_,
    }


def _write(folder: Path, result: dict[str, Any], mixture: GaussianMixture, splits: Splits, x: np.ndarray) -> None:
    """Write parameters, numbers and figures."""
    from safetensors.numpy import save_file

    from pvae.commands.output import json_text

    folder.mkdir(parents=True, exist_ok=True)
    names = ("weights_", "means_", "covariances_", "precisions_cholesky_")
    save_file({name.rstrip("_"): getattr(mixture, name).copy() for name in names}, folder / "mixture.safetensors")
    (folder / "em.json").write_text(json_text(result) + "\n")
    for name, figure in _figures(result, mixture, splits, x).items():
        figure.savefig(folder / f"{name}.png")


def _figures(result: dict[str, Any], mixture: GaussianMixture, splits: Splits, x: np.ndarray) -> dict[str, Figure]:
    import numpy as np

    from pvae import plots

    steps = np.arange(1, len(mixture.lower_bounds_) + 1)
    history = {f"{len(mixture.weights_)} components": [(steps, mixture.lower_bounds_)]}
    found = {"history": plots.learning_curves(history, xlabel="step", ylabel="log-likelihood (nats per datum)")}
    if len(splits.data_shape) > 1:
        found["components"] = plots.mixture_pictures(mixture.means_.reshape(-1, *splits.data_shape), mixture.weights_)
    elif x.shape[1] > 1:
        shown = mixture.impute(x[:: max(1, len(x) // 2000)])
        found["components"] = plots.mixture_ellipses(
            shown, mixture.predict(shown), mixture.weights_, mixture.means_, mixture.dense_covariances()
        )
    if "selection" in result:
        fits = result["selection"]["fits"]
        criteria = {name.upper(): [each[name] / len(x) for each in fits] for name in ("bic", "aic")}
        counts = [each["asked"] for each in fits]
        found["selection"] = plots.selection_curve(counts, criteria, best=mixture.n_components)
    return found


def _text(result: dict[str, Any]) -> str:
    """The same for a person."""
    from pvae.em.fitting import ranges

    sizes = ", ".join(f"{count} {name}" for name, count in result["data_set"]["sizes"].items() if count)
    rows = {"data": f"{result['data_set']['name']}: {sizes}"}
    rows["mixture"] = f"{result['components']} components, {result['covariance']} covariances"
    rows["mixture"] += f", merged from {result['asked']}" if result["components"] < result["asked"] else ""
    ended = "converged" if result["converged"] else "not converged"
    rows["EM"] = f"{result['steps']} steps in {result['seconds']:.2f} s, {ended}"
    for name, each in result["log_likelihood"].items():
        rows[f"log p, {name}"] = f"{each.value:.4f} ± {each.error:.4f} nats per datum"
    rows["BIC, AIC"] = f"{result['bic']:.1f}, {result['aic']:.1f}"
    for word in dict.fromkeys(word for word in result["status"] if word != "fitted"):
        rows[word] = f"components {ranges([number for number, each in enumerate(result['status']) if each == word])}"
    if "out" in result:
        rows["written to"] = result["out"]
    chosen = f"{_selection(result)}\n\n" if "selection" in result else ""
    return chosen + lines(rows)


def _selection(result: dict[str, Any]) -> str:
    header = ["components", "BIC", "AIC", "log p, held out", "steps", "chosen"]
    rows = []
    for each in result["selection"]["fits"]:
        held = each["log_likelihood"].get("validation")
        chosen = "*" if each["asked"] == result["asked"] else ""
        told = "" if held is None else f"{held.value:.3f} ± {held.error:.3f}"
        rows.append([each["asked"], f"{each['bic']:.0f}", f"{each['aic']:.0f}", told, each["steps"], chosen])
    return table(header, rows)


class _Progress:
    """How far EM is, on standard error: one line that changes on a terminal, a line for each start elsewhere.

    Args:
        wanted: whether to show it; None on a terminal and off it alike.
        steps: most steps of a start.
    """

    def __init__(self, wanted: bool | None, steps: int) -> None:
        self.wanted, self.steps, self.live = wanted is not False, steps, sys.stderr.isatty()

    def of(self, components: int) -> Callable[[int, int, float, bool], None]:
        """Return what `GaussianMixture.fit` calls after each step."""

        def watch(start: int, step: int, bound: float, done: bool) -> None:
            line = f"{components} components, start {start + 1}, step {step}/{self.steps}: {bound:.4f} nats per datum"
            if self.wanted and self.live:
                click.echo(f"\r{line:<78}", err=True, nl=done)
            elif self.wanted and done:
                say(line)

        return watch
