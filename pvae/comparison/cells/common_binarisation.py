"""One binarisation of the data for all models of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pvae.comparison.cells.drawings import SEED
from pvae.data import Splits
from pvae.errors import InputError
from pvae.evaluate.evaluation_context import evaluation_context
from pvae.models.make_model import build_model
from pvae.train.devices import isolated

__all__ = ["resolve_binarisation"]


def resolve_binarisation(splits: Splits, models: Mapping[str, Any]) -> Splits:
    """Return the splits with the binarisation that the likelihoods of all models need.

    Splits with ``binarise="auto"`` leave the choice to the likelihood. A comparison makes it once, so that all models
    are evaluated on the same data.

    Args:
        splits: the data.
        models: model factories by name.

    Raises:
        InputError: if some models score grey levels and others binary values.
    """
    if splits.binarise != "auto":
        return splits
    names_by_binarisation: dict[str, list[str]] = {}
    for name, factory in models.items():
        try:
            with isolated(SEED):
                binarisation = _binarisation_of(build_model(factory, splits), splits)
        except Exception:  # if a model cannot be built or run, its cells fail later with the reason
            continue
        names_by_binarisation.setdefault(binarisation, []).append(name)
    if len(names_by_binarisation) > 1:
        groups = "; ".join(f"{how}: {', '.join(names)}" for how, names in names_by_binarisation.items())
        raise InputError(
            f"A comparison needs models that score the same data; these need different data (binarise {groups}), so "
            "their evidences cannot be compared. Give data with binarise='static' or 'none'."
        )
    return splits.for_likelihood("static" in names_by_binarisation)


def _binarisation_of(model: Any, splits: Splits) -> str:
    """Return ``"static"`` if an evaluation of the model binarises these data, else ``"none"``."""
    if splits.test is None:
        return "none"
    with evaluation_context(model, splits) as context:
        unchanged = torch.equal(context.batch.x.cpu().float(), splits.test.x.cpu().float())
    return "none" if unchanged else "static"
