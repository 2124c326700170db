"""Figures of one system each: forecasts of sequences, one modality given the others, and words of topics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvae.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from pvae.train.figures.figure_inputs import FigureInputs

__all__ = ["cross_generation", "forecast", "topics"]

#: The share of each sequence that a forecast starts from, and its number of draws.
_SEEN, _FORECASTS = 2 / 3, 200


def forecast(inputs: FigureInputs) -> Figure:
    """Return sequences with forecasts of their last third.

    Raises:
        InputError: for another model than a `pvae.SequenceVAE`, or for sequences of one time step.
    """
    import torch

    from pvae import plots
    from pvae.models import SequenceVAE

    model, batch = inputs.run.model, inputs.first_data()
    if not isinstance(model, SequenceVAE):
        raise InputError("A forecast needs a model of sequences that continues them. Train sequence-vae.")
    x, lengths = batch["x"], batch.get("lengths", torch.full((batch.size,), model.time))
    ends = (lengths * _SEEN).ceil().long().clamp(max=lengths - 1)
    kept = ends > 0
    if not bool(kept.any()):
        raise InputError("A forecast needs sequences of at least two time steps; these have one each.")
    x, ends, counts = x[kept], ends[kept], lengths[kept].tolist()
    continued = model.continued(x, ends, n=_FORECASTS, particles=_FORECASTS)
    shown = inputs.as_pictures(x).reshape(len(x), model.time, -1)
    draws = inputs.as_pictures(continued, leading=2).reshape(_FORECASTS, *shown.shape)
    parts = [draws[:, row, end:length] for row, (end, length) in enumerate(zip(ends.tolist(), counts, strict=True))]
    complete = [shown[row, :length] for row, length in enumerate(counts)]
    return plots.forecasts(complete, parts, ends.tolist())


def cross_generation(inputs: FigureInputs) -> Figure:
    """Return one modality of data, and its mean given the others.

    Raises:
        InputError: for another model than a `pvae.MultimodalVAE`.
    """
    from pvae import plots
    from pvae.models import MultimodalVAE

    model, batch = inputs.run.model, inputs.first_data()
    if not isinstance(model, MultimodalVAE):
        raise InputError(
            f"Cross-generation needs a pvae.MultimodalVAE; this run has a {type(model).__name__}. Draw "
            "reconstructions or samples."
        )
    target = inputs.site or list(model.modalities)[-1]
    true, generated = model.cross_generation_of(target, batch)
    picture = inputs.as_pictures if target == "x" else _unchanged
    given = ", ".join(name for name in model.modalities if name != target)
    return plots.reconstructions(
        picture(true),
        picture(generated),
        feature_names=inputs.feature_names if target == "x" else None,
        title=f"{target} of {inputs.split} data, and its mean given {given} at one draw of z",
        name="generated",
    )


def _unchanged(x: Tensor) -> Tensor:
    return x


def topics(inputs: FigureInputs) -> Figure:
    """Return the most probable words of each topic.

    Raises:
        InputError: for another model than a `pvae.ProdLDA`.
    """
    from pvae import plots
    from pvae.models import ProdLDA

    model = inputs.run.model
    if not isinstance(model, ProdLDA):
        raise InputError("A figure of topics needs a topic model. Train prodlda.")
    probabilities = model.topic_words().cpu()
    top = probabilities.topk(min(inputs.count, probabilities.shape[1]))
    names = inputs.feature_names or [f"word {index}" for index in range(probabilities.shape[1])]
    words = [[names[index] for index in row] for row in top.indices.tolist()]
    shares = model.shares(inputs.batch["x"]).mean(0).tolist()
    titles = [f"topic {topic} ({share:.0%})" for topic, share in enumerate(shares)]
    note = f"In brackets: the mean share of each topic in the {inputs.split} data."
    return plots.topic_words(words, top.values, titles, note=note)
