"""The classifier of a latent model with labels: how it is found, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from pvae.errors import InputError
from pvae.programs.registration import Registration

__all__ = ["accuracy_of", "classifier_of", "most_probable", "outside_classes"]


def classifier_of(*owners: Any, said: str) -> Callable[[Tensor], Any]:
    """Return the method ``classify`` of the first owner that has one: x to q(y given x), of batch shape (batch,).

    Args:
        owners: latent models, or the programs' owners.
        said: who asks, for the error.

    Raises:
        InputError: if there is none.
    """
    for owner in owners:
        found = getattr(owner, "classify", None)
        if callable(found):
            break
    else:
        made = next((type(each).__name__ for each in owners if each is not None), "the model")
        raise InputError(
            f"{said} needs q(y given x): write a method classify(self, x) on {made} that returns a distribution, such "
            "as pyro.distributions.Categorical(logits=self.classifier(x))."
        )

    def classify(x: Tensor) -> Any:
        with Registration(owner) if isinstance(owner, nn.Module) else nullcontext():
            return found(x)

    return classify


def most_probable(density: Any) -> Tensor:
    """Return the most probable label under a distribution over labels, of its batch shape."""
    values = density.enumerate_support(expand=False)
    place = density.log_prob(values).argmax(0)
    return values.reshape(-1)[place].long()


def outside_classes(y: Tensor, classes: int, *, hidden: bool = False) -> Tensor:
    """Return which labels are none of 0 to classes - 1, nor -1 where labels may be hidden, in the shape of `y`."""
    return (y < (-1 if hidden else 0)) | (y >= classes) | (y != y.long())


def accuracy_of(latent_model: Any, batch: Mapping[str, Tensor]) -> float | None:
    """Return the part of a batch's labelled data that the classifier is right on; None without classifier or labels."""
    y = batch.get("y")
    if y is None or y.is_floating_point() or not callable(getattr(latent_model, "classify", None)):
        return None
    known = y >= 0
    if not bool(known.any()):
        return None
    right = most_probable(classifier_of(latent_model, said="accuracy")(batch["x"])) == y
    return float(right[known].double().mean())
