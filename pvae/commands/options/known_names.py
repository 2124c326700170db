"""The names that options accept, for the help and for completion by the shell; and other names of the same systems.

These names are written down here because their tables are in files that import torch, and help and completion must
answer at once. A test compares them with the tables.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from pvae.commands.options.option_types import SettingType
from pvae.errors import InputError

__all__ = [
    "KNOWN_NAMES",
    "SYSTEM_ALIASES",
    "ModelType",
    "NamedSettingType",
    "NamesType",
    "RunType",
    "objective_names",
    "resolve_system",
]

KNOWN_NAMES: dict[str, tuple[str, ...]] = {
    "models": (
        "air",
        "autoencoder",
        "cvae",
        "gmm",
        "gmvae",
        "joint-vae",
        "ladder-vae",
        "masked-vae",
        "multimodal-vae",
        "prodlda",
        "sequence-vae",
        "ssvae",
        "vae",
        "vqvae",
    ),
    "networks": ("conv", "gated", "mlp", "resnet"),
    "priors": ("flow", "mixture", "sphere", "standard", "vamp"),
    "posteriors": ("diagonal", "flow", "full", "householder", "mixture", "von-mises-fisher"),
    "likelihoods": (
        "bernoulli",
        "categorical",
        "continuous-bernoulli",
        "discretised-logistic",
        "gaussian",
        "negative-binomial",
        "poisson",
    ),
    "activations": ("elu", "gelu", "leaky_relu", "relu", "silu", "softplus", "tanh"),
    "initialisations": ("default", "glorot", "he"),
    "data": ("digits", "freyfaces", "mnist", "mnist_static", "multi_digits", "sprites"),
}
"""The names of each kind but objectives, as `pvae list` prints them."""

_DECORATOR = re.compile(r'^@named\(\s*"([^"]+)"', flags=re.MULTILINE)

SYSTEM_ALIASES: dict[str, tuple[str, str | None]] = {
    "ae": ("autoencoder", None),
    "beta-vae": ("vae", "beta"),
    "factor-vae": ("vae", "factor-vae"),
    "iwae": ("vae", "iwae"),
    "jointvae": ("joint-vae", "joint-capacity"),
    "mmvae": ("multimodal-vae:combine=mixture", "stratified-iwae"),
    "mvae": ("multimodal-vae:combine=product", "subsampled-elbo"),
    "rae": ("autoencoder", "rae"),
    "vae-gan": ("vae:likelihood=gaussian", "vae-gan"),
    "vq-vae": ("vqvae", None),
    "wae": ("autoencoder:prior=standard", "wae"),
}
"""Other names of systems: the model with its settings, and the objective that is part of the system, or None."""


def objective_names() -> list[str]:
    """Return the names of the objectives, read from their decorators in the source code, because that is quick."""
    sources = sorted((Path(__file__).parents[2] / "objectives").rglob("*.py"))
    return sorted(name for source in sources for name in _DECORATOR.findall(source.read_text("utf-8")))


def resolve_system(name: str, *, takes_objective: bool) -> tuple[str, str | None]:
    """Return the model that a name means, with its settings, and the objective that is part of it, or None.

    Args:
        name: the name of a model, of `SYSTEM_ALIASES`, or of a file and a class.
        takes_objective: whether the command trains one objective, which the name may then decide.

    Raises:
        InputError: if the name decides the objective of a command that takes several.
    """
    model, objective = SYSTEM_ALIASES.get(name, (name, None))
    if objective is not None and not takes_objective:
        raise InputError(
            f"{name} is the model {model} with the objective {objective}, and this command takes its objectives from "
            f"--objectives. Write {model}, and name {objective} there. Commas separate objectives."
        )
    return model, objective


class NamesType(click.ParamType):
    """A text that the shell completes by known names; it may be a list with commas.

    Args:
        kind: a key of `KNOWN_NAMES`, or ``"objectives"``.
        files: whether the text may also be the path of a file.
    """

    name = "text"

    def __init__(self, kind: str, *, files: bool = False) -> None:
        self.kind = kind
        self.files = files

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        return value if isinstance(value, str) else str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin with the last element of the text; files if there are no such names."""
        return _completions(self.names(), incomplete, files=self.files)

    def names(self) -> Sequence[str]:
        """Return the names that the shell offers."""
        return objective_names() if self.kind == "objectives" else KNOWN_NAMES[self.kind]


class ModelType(NamesType):
    """The name of a model or of a system, or a file and a class."""

    def __init__(self) -> None:
        super().__init__("models", files=True)

    def names(self) -> Sequence[str]:
        """Return the names of the models and the aliases."""
        return sorted([*KNOWN_NAMES["models"], *SYSTEM_ALIASES])


class NamedSettingType(SettingType):
    """A value of any type that the shell completes by known names.

    Args:
        kind: a key of `KNOWN_NAMES`.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin with the text."""
        return _completions(KNOWN_NAMES[self.kind], incomplete)


class RunType(click.ParamType):
    """The folder of a run. The shell completes it by the runs of the folder that is typed."""

    name = "run"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the folders of runs that begin with the text, in ``runs`` for an empty text; else any folder."""
        typed = Path(incomplete or "runs/")
        parent = typed if incomplete.endswith("/") or not incomplete else typed.parent
        folders = sorted(path.parent for path in parent.glob("*/config.toml"))
        found = [CompletionItem(str(folder)) for folder in folders if str(folder).startswith(incomplete)]
        return found or [CompletionItem(incomplete, type="dir")]


def _completions(names: Sequence[str], incomplete: str, *, files: bool = False) -> list[CompletionItem]:
    """Return the completions of the last element of a list with commas."""
    before, separator, last = incomplete.rpartition(",")
    found = [CompletionItem(f"{before}{separator}{name}") for name in names if name.startswith(last)]
    return found or ([CompletionItem(incomplete, type="file")] if files else [])
