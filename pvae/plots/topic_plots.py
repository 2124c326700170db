"""Figures of the words of topics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pvae.plots.base import INK, PALETTE, as_array, plain_label
from pvae.plots.feature_panels import MOST_PANELS, new_panels
from pvae.plots.titles import add_title

__all__ = ["topic_words"]

_WORD_CHARACTERS = 14


def topic_words(
    words: Sequence[Sequence[str]],
    probabilities: ArrayLike,
    names: Sequence[str],
    *,
    title: str = "Words of each topic",
    note: str = "",
) -> Figure:
    """Return one panel for each topic, with a bar for the probability of each of its words.

    Args:
        words: the most probable words of each topic, the most probable first, (topics, words).
        probabilities: their probabilities in a document of only this topic, shape (topics, words).
        names: the title of each panel, (topics,).
        title: title of the figure.
        note: a sentence below the title.

    Example:
        >>> from pvae import plots
        >>> words = [["snow", "ice"], ["sun", "sea"]]
        >>> figure = plots.topic_words(words, [[0.4, 0.2], [0.5, 0.3]], ["winter", "summer"])
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['snow', 'ice']
    """
    values = as_array(probabilities)
    shown = min(len(words), MOST_PANELS)
    height = 0.45 + 0.13 * values.shape[1]
    figure, panels = new_panels(list(names[:shown]), "probability in a document of only this topic", height=height)
    heights = np.arange(values.shape[1])
    for axes, chosen, row in zip(panels, words, values, strict=False):
        axes.barh(heights, row, color=PALETTE[0], height=0.7)
        axes.set_yticks(heights, [plain_label(word, _WORD_CHARACTERS) for word in chosen], fontsize=7.5, color=INK)
        axes.set_ylim(len(chosen) - 0.4, -0.6)
        axes.set_xlim(left=0)
    left_out = f"{len(words) - shown} of {len(words)} topics are left out." if shown < len(words) else ""
    return add_title(figure, title, " ".join(text for text in (note, left_out) if text))
