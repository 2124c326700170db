"""The classifier q(y given x) of a latent model with labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from pvae.errors import InputError
from pvae.programs.model_traits import traits_of
from pvae.programs.registration import Registration

__all__ = ["accuracy_of", "classifier_of", "most_probable", "outside_classes", "require_known_labels"]


def classifier_of(*owners: Any, caller: str) -> Callable[[Tensor], Any]:
    """Return the method ``classify`` of the first owner with such a method.

    Args:
        owners: latent models, or the owners of programs; None is skipped.
        caller: the name of the caller, for the error.

    Returns:
        A function from x to q(y given x), a distribution of batch shape (batch,).

    Raises:
        InputError: if no owner has a method ``classify``.
    """
    for owner in owners:
        method = traits_of(owner).classify
        if callable(method):
            return _registered(owner, method)
    owner_name = next((type(owner).__name__ for owner in owners if owner is not None), "the model")
    raise InputError(
        f"{caller} needs q(y given x), which {owner_name} does not have. Train a model with it, such as ssvae "
        "(pvae.SemiSupervisedVAE), or write a method classify(self, x) on your own class that returns a distribution, "
        "such as pyro.distributions.Categorical(logits=self.classifier(x))."
    )


def _registered(owner: Any, method: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """Return a method that runs with the parameters of its owner registered."""

    def classify(x: Tensor) -> Any:
        with Registration(owner) if isinstance(owner, nn.Module) else nullcontext():
            return method(x)

    return classify


def most_probable(density: Any) -> Tensor:
    """Return the most probable label under a distribution over labels, in its batch shape.

    Args:
        density: a distribution with enumerable support.
    """
    values = density.enumerate_support(expand=False)
    index = density.log_prob(values).argmax(0)
    return values.reshape(-1)[index].long()


def outside_classes(y: Tensor, classes: int, *, hidden: bool = False) -> Tensor:
    """Return which labels are not classes, in the shape of `y`.

    Args:
        y: the labels; the classes are 0 to classes - 1.
        classes: the number of classes.
        hidden: whether -1, a hidden label, is allowed too.
    """
    return (y < (-1 if hidden else 0)) | (y >= classes) | (y != y.long())


def require_known_labels(latent_model: Any, batch: Mapping[str, Tensor]) -> None:
    """Raise InputError for labels outside the classes of a model, because they would have probability 0.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors, of which ``y`` is checked.

    Raises:
        InputError: if a label is neither one of the classes nor -1; nothing is checked if the model names no classes.
    """
    classes, y = traits_of(latent_model).classes, batch.get("y")
    if not isinstance(classes, int) or y is None or y.dim() > 1:
        return
    outside = outside_classes(y, classes, hidden=True)
    if bool(outside.any()):
        raise InputError(
            f"Labels must be 0 to {classes - 1}, or -1 for a hidden label. {int(outside.sum())} labels of these data "
            f"are outside the {classes} classes of the model; the first is {y[outside][0].item():g}. Correct the "
            "labels, or build the model with more classes."
        )


def accuracy_of(latent_model: Any, batch: Mapping[str, Tensor]) -> float | None:
    """Return the fraction of the labelled data of a batch that the classifier classifies correctly.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors.

    Returns:
        The accuracy, 0 to 1; None if the model has no classifier, the batch no labels, or a label is not a class of the
        model.
    """
    # labels of data that are read in parts are not read without a classifier
    y = batch.get("y") if callable(traits_of(latent_model).classify) else None
    if y is None or y.is_floating_point():
        return None
    classes = traits_of(latent_model).classes
    if isinstance(classes, int) and bool(outside_classes(y, classes, hidden=True).any()):
        return None
    is_labelled = y >= 0
    if not bool(is_labelled.any()):
        return None
    is_correct = most_probable(classifier_of(latent_model, caller="accuracy")(batch["x"])) == y
    return float(is_correct[is_labelled].double().mean())
