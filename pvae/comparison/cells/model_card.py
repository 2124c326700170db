"""The model card of a cell: the text of both programs, the networks, and the number of parameters."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from pvae.programs.model_traits import is_latent_model

__all__ = ["describe_model"]

_MOST_CHARACTERS = 12_000  # of one text


def describe_model(model: Any) -> dict[str, Any]:
    """Return the class, the texts of the programs, the networks and the number of parameters of a latent model.

    Args:
        model: a trained latent model.
    """
    card: dict[str, Any] = {"class": f"{type(model).__module__}.{type(model).__qualname__}"}
    if is_latent_model(model):
        card["programs"] = {name: _text_of(program) for name, program in _programs(model).items()}
    if isinstance(model, nn.Module):
        card["networks"] = repr(model)[:_MOST_CHARACTERS]
        card["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        card["trainable parameters"] = sum(each.numel() for each in model.parameters() if each.requires_grad)
    return card


def _programs(model: Any) -> dict[str, Any]:
    return {"model": model.model, "guide": model.guide}


def _text_of(program: Any) -> str:
    """Return the text of a program, or the reason why it is not known."""
    try:
        return inspect.getsource(inspect.unwrap(program))[:_MOST_CHARACTERS]
    except (OSError, TypeError):
        return "The text of this program is not known: it was not read from a file."
