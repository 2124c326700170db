"""The estimator of the log evidence in a comparison: importance sampling, annealing, or both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pvae.comparison.cells.drawings import SEED
from pvae.data import Splits
from pvae.errors import InputError
from pvae.evaluate.annealing.annealing_run import AnnealingSettings
from pvae.evaluate.annealing.leapfrog import LEAPFROG_STEPS
from pvae.evaluate.annealing.two_sided import CHAINS, DATA, TEMPERATURES, require_annealing, steps_of_annealing
from pvae.models.make_model import build_model
from pvae.names import parse_known
from pvae.train.devices import isolated

__all__ = ["IMPORTANCE", "SANDWICH", "EvidenceMethod", "parse_evidence", "require_evidence"]

SANDWICH = "sandwich"
_IMPORTANCE_SAMPLING = "is"

_DEFAULTS: dict[str, Any] = {
    "temperatures": TEMPERATURES,
    "chains": CHAINS,
    "start": "prior",
    "schedule": "sigmoid",
    "leapfrog_steps": LEAPFROG_STEPS,
}
#: The settings that each method accepts.
_SETTINGS: dict[str, tuple[str, ...]] = {_IMPORTANCE_SAMPLING: (), "ais": (*_DEFAULTS,), SANDWICH: (*_DEFAULTS,)}
#: The default number of test data of importance sampling.
_DATA_OF_IMPORTANCE_SAMPLING = 1000


@dataclass(frozen=True)
class EvidenceMethod:
    """The estimator of the log evidence of a cell.

    Attributes:
        name: ``"is"``, ``"ais"`` or ``"sandwich"``.
        settings: the settings of `pvae.evaluate.ais` that differ from their defaults.
    """

    name: str = _IMPORTANCE_SAMPLING
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def anneals(self) -> bool:
        """Whether the method is annealed importance sampling, in one or in both directions."""
        return self.name != _IMPORTANCE_SAMPLING

    @property
    def text(self) -> str:
        """The method with its settings, such as ``"sandwich:temperatures=200"``."""
        return ":".join([self.name, *(f"{name}={value}" for name, value in self.settings.items())])

    @property
    def default_limit(self) -> int:
        """The default number of test data."""
        return DATA if self.anneals else _DATA_OF_IMPORTANCE_SAMPLING

    def annealing(self) -> AnnealingSettings:
        """Return all settings of the annealing.

        Raises:
            InputError: if a setting is out of range.
        """
        return AnnealingSettings(**{**_DEFAULTS, **self.settings}, seed=SEED)

    def cost(self, data: int) -> int:
        """Return the expected number of decoder evaluations of the annealing of one cell; 0 without annealing.

        Args:
            data: the number of test data.
        """
        return steps_of_annealing(self.name, self.annealing(), data) if self.anneals else 0


IMPORTANCE = EvidenceMethod()
"""Importance sampling with the guide."""


def parse_evidence(text: Any) -> EvidenceMethod:
    """Return the method that a text names.

    Args:
        text: ``"is"``, ``"ais"`` or ``"sandwich"``; settings follow colons: ``"sandwich:temperatures=200:chains=8"``.

    Raises:
        InputError: if the method or a setting is unknown, or a setting is out of range.
    """
    if not isinstance(text, str):
        raise InputError(f"evidence needs a text, such as 'is', 'ais' or 'sandwich:chains=8'; got {text!r}.")
    name, settings = parse_known(text, "evidence method", _SETTINGS, lambda names: names)
    changed = {key: value for key, value in settings.items() if value != _DEFAULTS[key]}
    method = EvidenceMethod(name, changed)
    if method.anneals:
        method.annealing()
    return method


def require_evidence(method: EvidenceMethod, models: Mapping[str, Any], splits: Splits, limit: int | None) -> None:
    """Raise InputError for models that the method cannot evaluate, before any training.

    Args:
        method: the method.
        models: model factories by name.
        splits: the data.
        limit: number of test data in the evaluation; None for all.

    Raises:
        InputError: with the name of the model and of the site.
    """
    if not method.anneals:
        return
    for name, factory in models.items():
        try:
            with isolated(SEED):
                model = build_model(factory, splits)
                require_annealing(model, splits, method.annealing(), limit=limit)
        except InputError as error:
            raise InputError(f"The log evidence of {name!r} cannot be estimated by {method.name}. {error}") from error
        except Exception:  # a model that fails to build or to run: its cells will fail, with the reason
            continue
