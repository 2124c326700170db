"""The optional attributes and methods of a latent model, in one record with defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from pvae.errors import InputError

__all__ = ["HasPrograms", "ModelTraits", "is_latent_model", "require_latent_model", "traits_of"]


class HasPrograms(Protocol):
    """Any object with the two programs of a latent model."""

    @property
    def model(self) -> Callable[..., Any]:
        """The generative program p(x, z)."""

    @property
    def guide(self) -> Callable[..., Any]:
        """The program q(z given x)."""


@dataclass(frozen=True)
class ModelTraits:
    """The optional attributes and methods of a latent model, each with its default.

    A latent model needs the programs ``model`` and ``guide``; everything here is optional. A user's class has a trait
    if it has an attribute or a method of the same name. This record is complete: training, validation, the linter and
    evaluation read a latent model's optional attributes through `traits_of` and in no other way.

    Attributes:
        fields: the batch fields that the programs get: names by position, or a mapping from parameter to field. With
            None, the signatures of the programs name the fields, see `pvae.models.bind`.
        optional_fields: the fields that ``**fields`` of the programs get, if a batch has them. By default none.
        modalities: the names of the fields of a multimodal model, whose programs take ``_subset``, shape (batch,
            modalities), the modalities that are used. By default none.
        default_objective: the objective that suits the model, as text. It is used if a training does not name an
            objective.
        initialise_from: a method that sets values that depend on the data, such as an output bias. `pvae.fit` calls it
            with the training data, once, before a fresh training. None if nothing depends on the data.
        classify: a method from x, shape (batch, ...), to q(y given x), a distribution of batch shape (batch,). None if
            the model has no classifier.
        classes: the number of classes of the label y; labels are 0 to classes - 1. None if labels are not checked.
        check_data: a method that raises an error for data that the model cannot take. `pvae.fit` calls it with each
            batch of data that are read in parts. None if there is nothing to check.
    """

    fields: Sequence[str] | Mapping[str, str] | None = None
    optional_fields: Sequence[str] = ()
    modalities: Collection[str] = ()
    default_objective: str = "elbo"
    initialise_from: Callable[[Mapping[str, Tensor]], None] | None = None
    classify: Callable[[Tensor], Any] | None = None
    classes: int | None = None
    check_data: Callable[[Mapping[str, Tensor]], None] | None = None


def traits_of(latent_model: Any) -> ModelTraits:
    """Return the traits of a latent model, with the defaults of `ModelTraits` for traits that it does not have.

    Args:
        latent_model: any object with ``model`` and ``guide``: a `LatentModel`, a `pvae.pair`, a VAE of a Pyro tutorial
            or a plain object. A class, or a function that makes a latent model, is accepted too: its
            `default_objective` is meaningful, but methods are not bound to an instance.
    """
    traits: dict[str, Any] = {
        trait.name: getattr(latent_model, trait.name, trait.default) for trait in dataclasses.fields(ModelTraits)
    }
    return ModelTraits(**traits)


def is_latent_model(candidate: Any) -> bool:
    """Return whether an object has the two programs, ``model`` and ``guide``."""
    return callable(getattr(candidate, "model", None)) and callable(getattr(candidate, "guide", None))


def require_latent_model(candidate: Any, caller: str) -> None:
    """Raise InputError if an object is not a latent model.

    Args:
        candidate: the object that a user passed as a latent model.
        caller: the function that needs it, for the error.
    """
    if isinstance(candidate, type):
        raise InputError(f"{caller} needs a latent model; got the class {candidate.__name__}. Make an instance of it.")
    if not is_latent_model(candidate):
        raise InputError(
            f"{caller} needs a latent model with .model and .guide; got {type(candidate).__name__}. Use "
            "pvae.pair(model, guide) for two functions."
        )
