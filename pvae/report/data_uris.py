"""Figures as ``data:`` addresses, which contain the picture itself."""

from __future__ import annotations

import base64
import io

from matplotlib.figure import Figure
from PIL import Image

__all__ = ["data_address"]

# Enough for smooth edges of letters and distinct grey levels; the file is a quarter of the file with all colours.
_COLOURS = 128


def data_address(figure: Figure, dpi: int = 180) -> str:
    """Return a ``data:`` address with the figure as a PNG picture of at most 128 colours.

    A page cannot rely on fonts of the reader's machine, so an SVG picture would need its letters as outlines. The
    outlines are larger than PNG for every figure of a report.

    Args:
        figure: the figure.
        dpi: resolution in pixels per inch.

    Returns:
        The address, for the attribute ``src`` of an ``img`` element.
    """
    drawing, compressed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawing, format="png", dpi=dpi)
    drawing.seek(0)
    with Image.open(drawing) as image:
        palette_image = image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    palette_image.save(compressed, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(compressed.getvalue()).decode('ascii')}"
