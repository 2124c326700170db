"""The sections on the models of a comparison: the latent explorer, and a card for each row."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from pvae.comparison.base import Outcome
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.table.row import Row
from pvae.plots.picture_tiles import as_pictures, value_limits
from pvae.report import Explorer, Listing, Section, Settings

__all__ = ["make_cards_section", "make_explorer_section"]

_MOST_CHARACTERS = 900_000  # of all explorers
_RANGE = 3.0
_TEXT = (
    "The mean of p(x given z) at the values of z that the sliders or the plane set. In the plane, the arrow keys move "
    "the point. Units without a slider are 0. The section needs a browser that runs scripts; the figures above do not."
)


def make_explorer_section(data: ReportData) -> Section | None:
    """Return the section with an explorer of the decoder of each row, up to a limit; None without decoders.

    Args:
        data: the results and settings.
    """
    explorers: list[Explorer] = []
    used = 0
    for row, outcome in data.rows_with_pictures():
        content = _explore(data, data.arrays_of(outcome), outcome.scores.get("drawings") or {})
        size = sum(len(str(value)) for value in content.values()) if content else 0
        if content and used + size <= _MOST_CHARACTERS:
            used += size
            explorers.append(Explorer(f"{data.key(row)}, seed {outcome.cell.seed}", content))
    return Section("Latent explorer", (_TEXT,), explorers=tuple(explorers)) if explorers else None


def _explore(data: ReportData, arrays: Mapping[str, Tensor], texts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the input of the script: the weights of a decoder, or decoded pictures; {} for neither."""
    shape = list(data.data.get("data_shape") or [])
    if "decoder.0.weight" in arrays and texts.get("activations"):
        return _weights(data, arrays, list(texts["activations"]), shape)
    if "traversals" not in arrays:
        return {}
    units, steps = arrays["traversals"].shape[:2]
    pictures = as_pictures(arrays["traversals"].flatten(0, 1).double().numpy())
    # The script shows black for 0 and white for 1, so it cannot show values outside.
    if pictures is None or pictures.ndim != 3 or value_limits(pictures) != (0.0, 1.0):
        return {}
    levels = np.clip(np.rint(255 * pictures), 0, 255).astype("u1")
    return {"kind": "pictures", "range": _RANGE, "size": [units, steps, *levels.shape[1:]], "levels": _encode(levels)}


def _weights(
    data: ReportData, arrays: Mapping[str, Tensor], activations: list[str], shape: list[int]
) -> dict[str, Any]:
    layers = [
        {
            "size": list(arrays[f"decoder.{index}.weight"].shape),
            "weight": _encode(arrays[f"decoder.{index}.weight"].numpy().astype("<f4")),
            "bias": _encode(arrays[f"decoder.{index}.bias"].numpy().astype("<f4")),
            "activation": activation,
        }
        for index, activation in enumerate(activations)
    ]
    scaling = data.schema.scaling
    is_picture = len(shape) == 2 or (len(shape) == 3 and 1 in (shape[0], shape[-1]))
    return {
        "kind": "weights",
        "range": _RANGE,
        "layers": layers,
        "shape": [size for size in shape if size != 1] if is_picture else [],
        "names": list(data.schema.columns),
        "shift": list(scaling.shift) if scaling else [],
        "scale": list(scaling.scale) if scaling else [],
    }


def _encode(values: Any) -> str:
    """Return numbers as text in base 64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def make_cards_section(data: ReportData) -> Section | None:
    """Return the section with a card of each row: parameters, networks and the text of both programs; None if unknown.

    Args:
        data: the results and settings.
    """
    settings: list[Settings] = []
    listings: list[Listing] = []
    for row in data.table.rows:
        outcomes = data.finished_outcomes(row)
        card = outcomes[0].scores.get("card") if outcomes else None
        if isinstance(card, Mapping):
            settings.append(_numbers_of(data, row, outcomes[0], card))
            listings += _listings_of(data, row, card)
    if not settings:
        return None
    text = "Each row has a card: numbers of its training, its networks and the text of its programs."
    return Section("Models", (text,), settings=tuple(settings), listings=tuple(listings))


def _numbers_of(data: ReportData, row: Row, outcome: Outcome, card: Mapping[str, Any]) -> Settings:
    values = {name: card[name] for name in ("class", "parameters", "trainable parameters") if name in card}
    values |= {"objective": row.objective, "epochs": outcome.scores.get("epochs", "")}
    if row.biased:
        values["bias of the gradient"] = row.biased
    return Settings(f"{data.key(row)}: {data.label(row)}", values)


def _listings_of(data: ReportData, row: Row, card: Mapping[str, Any]) -> list[Listing]:
    """Return the networks and programs of a row; the texts of an earlier row of the same model are not repeated."""
    earlier = next(other for other in data.table.rows if other.model == row.model)
    if earlier is not row:
        return []
    texts = {"networks": card.get("networks"), **(card.get("programs") or {})}
    return [Listing(f"{row.model}: {name}", str(text)) for name, text in texts.items() if text]
