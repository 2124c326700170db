"""One cell: train, judge, draw, write; runs in a worker process or in this one."""

from __future__ import annotations

import inspect
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pvae.batch import Batch
from pvae.comparison.base import Cell, Outcome
from pvae.comparison.em_cells import Climb, fit_by_em
from pvae.comparison.plan import Job
from pvae.comparison.workers import Tell
from pvae.data import Splits
from pvae.errors import InputError
from pvae.evaluate import Judgement, judge
from pvae.evaluate.evaluation_context import prepared
from pvae.models import ModelSpec
from pvae.objectives import adapt
from pvae.objectives.pyro.em import EM
from pvae.programs.queries import encode, joined, reconstruct, sample
from pvae.train import Run, fit
from pvae.train.devices import isolated

__all__ = ["drawings_of", "outcome_of", "settled", "train_and_judge"]

_SAMPLES, _PAIRS, _CODES = 40, 10, 1000
_SEED = 0  # of judgement and drawings: the same draws for every cell


def train_and_judge(job: Job, splits: Splits, tell: Tell) -> str:
    """Train a cell's model, or go on where it stopped, judge it, write both into its folder, and say it in a line.

    Args:
        job: the cell with its factories and options.
        splits: the data.
        tell: gets (epoch, note) after each epoch.
    """
    cell = job.cell
    # Kept for the page: on a live display they would be lost among the bars.
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        model, options, by_em, climb = job.model, dict(job.options), None, Climb(splits)
        # fit builds a ModelSpec itself, and notes how, so that others can open the run
        if not isinstance(model, ModelSpec) or _is_em(job):
            with isolated(cell.seed):
                model = _made(model, splits)
                if _is_em(job):  # again where a run is resumed: it comes to the same, and says how
                    by_em, options["epochs"] = fit_by_em(model, splits), 0
        run = fit(
            model, splits, objective=job.objective(), seed=cell.seed, out=cell.folder, progress=False,
            resume=cell.folder.exists(), callbacks=(_teller(tell), climb), **options,
        )  # fmt: skip
        tell((job.options["epochs"], "judging"))
        found = judge(run, splits, job.particles, limit=job.limit, seed=_SEED)
        drawn, missing = _drawn(run, splits, found)
    if drawn:
        save_file(drawn, cell.folder / "drawings.safetensors")
    notes = [*found.notes, *(f"no {each}" for each in missing), *dict.fromkeys(str(each.message) for each in warned)]
    training = {**_training(run, job, splits), "climb": climb.points} if by_em is None else by_em
    _write(cell, found, {**training, "notes": notes})
    return f"log evidence {found.log_evidence}"


def _is_em(job: Job) -> bool:
    return isinstance(adapt(job.objective()), EM)


def _made(model: Any, splits: Splits) -> Any:
    """Return a fresh latent model; a factory with a parameter without default gets the splits."""
    if isinstance(model, ModelSpec):
        return model.build(splits)
    try:
        parameters = inspect.signature(model).parameters.values()
    except ValueError:
        return model()
    wanted = [each for each in parameters if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
    return model(splits) if len(wanted) == 1 else model()


def _teller(tell: Tell) -> Callable[..., None]:
    last = 0.0

    def callback(record: Mapping[str, Any], *_: Any) -> None:
        nonlocal last
        if time.monotonic() - last > 0.25:
            last = time.monotonic()
            bound = record.get("validation_bound")
            tell((record["epoch"], "" if bound is None else f"validation bound {bound:.2f}"))

    return callback


def settled(splits: Splits, models: Mapping[str, Any]) -> Splits:
    """Return splits whose binarisation is settled, the same for all models, so that all are judged on the same data.

    Raises:
        InputError: if some models score grey levels and others bits.
    """
    if splits.binarise != "auto":
        return splits
    names: dict[str, list[str]] = {}
    for name, model in models.items():
        try:
            with isolated(_SEED):
                latent = _made(model, splits)
                names.setdefault(_scored_as(latent, splits), []).append(name)
        except Exception:  # a model that cannot be built or run: its cells fail, and say why
            continue
    if len(names) > 1:
        said = "; ".join(f"{how}: {', '.join(each)}" for how, each in names.items())
        raise InputError(
            f"These models score the data in different ways (binarise {said}), so their evidences cannot be "
            "compared. Give data with binarise='static' or 'none'."
        )
    return splits.for_likelihood("static" in names)


def _scored_as(latent: Any, splits: Splits) -> str:
    """Return ``"static"`` where an evaluation of the model binarises these data, else ``"none"``."""
    with prepared(latent, splits) as setting:
        same = splits.test is None or torch.equal(setting.batch.x.cpu().float(), splits.test.x.cpu().float())
    return "none" if same else "static"


def _training(run: Run, job: Job, splits: Splits) -> dict[str, Any]:
    """Return what the table tells of training."""
    records = [each for each in run.history if "event" not in each]
    particles = int(adapt(job.objective()).num_particles)
    epochs = max((each["epoch"] for each in records), default=0)
    return {
        "seconds": run.seconds,
        "epochs": epochs,
        "train particles": particles,
        "decoder_evaluations": particles * splits.train.size * epochs,
        **_curve(records, run.config["training"]["validation_particles"]),
    }


def _curve(records: list[dict[str, Any]], particles: int) -> dict[str, Any]:
    """Return the validation bound by epoch and seconds; the training loss's negative where there is none."""
    name, what, sign = "validation_bound", f"validation bound, {particles} particles", 1.0
    if not any(each.get(name) is not None for each in records):
        name, what, sign = "loss", "minus training loss", -1.0
    kept = [each for each in records if each.get(name) is not None]
    points = [[each["epoch"], sign * each[name], each.get("seconds", 0.0)] for each in kept]
    return {"curve": points, "curve is": what}


def _drawn(run: Run, splits: Splits, found: Judgement) -> tuple[dict[str, Tensor], list[str]]:
    """Return draws, reconstructions and codes for the page; what a model cannot give is left out and said."""
    drawn: dict[str, Tensor] = {}
    missing = []
    for part in (_samples, _reconstructions, _codes):
        try:
            with isolated(_SEED):
                drawn.update(part(run.model, splits, found))
        except Exception as error:  # a user's program may fail on what only pictures need: the cell's numbers stand
            missing.append(f"{part.__name__.strip('_')}: {type(error).__name__}: {error}")
    return {name: each.detach().cpu().contiguous() for name, each in drawn.items()}, missing


def _judged(splits: Splits, model: Any, count: int) -> Batch:
    part = splits.test if splits.test is not None else splits.train
    device = next((each.device for each in _parameters(model)), torch.device("cpu"))
    return part.take(slice(0, count)).to(device)


def _parameters(model: Any) -> list[Tensor]:
    return list(model.parameters()) if isinstance(model, torch.nn.Module) else []


def _shaped(x: Tensor, splits: Splits) -> Tensor:
    return x.reshape(len(x), *splits.data_shape) if x[0].numel() == _numel(splits.data_shape) else x


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _samples(model: Any, splits: Splits, found: Judgement) -> dict[str, Tensor]:
    return {"samples": _shaped(sample(model, _judged(splits, model, _SAMPLES)), splits)}


def _reconstructions(model: Any, splits: Splits, found: Judgement) -> dict[str, Tensor]:
    batch = _judged(splits, model, _PAIRS)
    again = reconstruct(model, batch)
    return {"originals": _shaped(batch.x, splits), "reconstructions": _shaped(again, splits)}


def _codes(model: Any, splits: Splits, found: Judgement) -> dict[str, Tensor]:
    """Return the means of the continuous latents, flattened to (data, units), with labels and KL per unit."""
    batch = _judged(splits, model, _CODES)
    units = {name: each for name, each in found.diagnosis.latents.items() if each.activity is not None}
    codes = {name: each for name, each in encode(model, batch).items() if name in units and len(each) == batch.size}
    if not codes:
        return {}
    flat = joined(codes)
    labels = {"labels": batch.y} if "y" in batch and batch.y.ndim == 1 else {}
    sizes = [units[name].kl_per_unit for name in codes]
    known = [each for each in sizes if each is not None]
    kl = torch.cat(known) if known else torch.empty(0)
    return {"codes": flat, **labels, **({"kl": kl} if len(kl) == flat.shape[1] else {})}


def _write(cell: Cell, found: Judgement, training: Mapping[str, Any]) -> None:
    """Write pointwise values, then the numbers: a cell with both files is done."""
    points = {
        "log_evidence": found.log_evidence.pointwise, "elbo": found.elbo.pointwise,
        "khat": found.khat, "ess": found.ess.double() / found.particles,
    }  # fmt: skip
    values = {name: each.detach().cpu().double().contiguous() for name, each in points.items() if each is not None}
    _replace(cell.evaluation.with_suffix(".safetensors"), lambda path: save_file(values, path))
    scores = {**found.to_json(), "active_units": found.active_units, **training, "judging seconds": found.seconds}
    text = json.dumps(
        {"cell": {"model": cell.model, "objective": cell.objective, "seed": cell.seed}, **scores}, indent=1
    )
    _replace(cell.evaluation, lambda path: path.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(path.name + ".partial")
    write(temporary)
    os.replace(temporary, path)


def outcome_of(cell: Cell) -> Outcome:
    """Return what a finished cell's folder says."""
    try:
        scores = json.loads(cell.evaluation.read_text(encoding="utf-8"))
        return Outcome(cell, scores, load_file(cell.evaluation.with_suffix(".safetensors")))
    except (OSError, ValueError, SafetensorError) as error:
        return Outcome(cell, failure=f"its evaluation cannot be read: {error}")


def drawings_of(cell: Cell) -> dict[str, Tensor]:
    """Return the arrays for a cell's pictures; empty where it left none."""
    path = cell.folder / "drawings.safetensors"
    try:
        return load_file(path) if path.exists() else {}
    except (OSError, SafetensorError):
        return {}
