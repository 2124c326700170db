"""Figures as addresses that hold the picture itself."""

from __future__ import annotations

import base64
import io

from matplotlib.figure import Figure
from PIL import Image

__all__ = ["data_address"]


def data_address(figure: Figure, dpi: int = 180) -> str:
    """Return a ``data:`` address with the figure as PNG in a palette.

    With letters as outlines, as a page without fonts needs them, SVG came out larger for every figure of a report.

    Args:
        figure: what to draw.
        dpi: pixels per inch.
    """
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    drawn.seek(0)
    with Image.open(drawn) as image:
        # 128 colours keep the edges of letters smooth and grey levels apart, at a quarter of the size.
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(packed, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(packed.getvalue()).decode('ascii')}"
