"""Names of the rows of a table, with only the parts that differ between the rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from pvae.names import unknown

__all__ = ["first_rows", "short_labels"]


def short_labels(names: Sequence[tuple[str, str]]) -> list[str]:
    """Return a name for each row: the parts of its model and objective that are not the same in all rows.

    >>> short_labels([("vae:latent=2:prior=vamp", "elbo"), ("vae:latent=2:prior=flow", "elbo")])
    ['prior=vamp', 'prior=flow']
    >>> short_labels([("vae", "elbo"), ("vae:latent=2", "elbo")])
    ['vae', 'vae:latent=2']
    >>> short_labels([("vae", "elbo"), ("vae", "iwae")])
    ['elbo', 'iwae']

    Args:
        names: model and objective of each row, all different.
    """
    models = dict(zip([model for model, _ in names], _short_models([model for model, _ in names]), strict=True))
    has_one_model = len(models) == 1
    has_one_objective = len({objective for _, objective in names}) == 1
    if has_one_model:
        return [objective for _, objective in names]
    return [models[model] if has_one_objective else f"{models[model]} / {objective}" for model, objective in names]


def _short_models(models: Sequence[str]) -> list[str]:
    """Return the models without the common base and settings; unchanged if a model would have no name left.

    Settings that all models have are dropped only if the models have the same base, because settings belong to their
    base.
    """
    bases, settings = zip(*map(_split, models), strict=True)
    shared = set(settings[0]).intersection(*settings[1:])
    short = [":".join(part for part in own if part not in shared) for own in settings]
    if len(set(bases)) > 1 or "" in short or len(set(short)) < len(set(models)):
        return list(models)
    return short


def _split(model: str) -> tuple[str, list[str]]:
    """Return the base of a name and its settings: ``"my.py:Model:latent=2"`` has the base ``"my.py:Model"``."""
    parts = model.split(":")
    first = next((index for index, part in enumerate(parts) if index and "=" in part), len(parts))
    return ":".join(parts[:first]), parts[first:]


def first_rows(baseline: str | None, models: Iterable[str], objectives: Iterable[str]) -> set[tuple[str, str]]:
    """Return model and objective of the rows that a baseline names: by objective, by both, or as in the table.

    Args:
        baseline: the name; None for no row.
        models: names of all models.
        objectives: names of all objectives.

    Raises:
        InputError: for an unknown name; the message gives the nearest known one.
    """
    pairs = list(product(models, objectives))
    names = {label: {pair} for label, pair in zip(short_labels(pairs), pairs, strict=True)}
    names |= {f"{model} / {objective}": {(model, objective)} for model, objective in pairs}
    names |= {chosen: {pair for pair in pairs if pair[1] == chosen} for _, chosen in pairs}
    if baseline is not None and baseline not in names:
        raise unknown("baseline", baseline, names)
    return names[baseline] if baseline is not None else set()
