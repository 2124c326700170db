"""Figures as addresses that hold the picture itself."""

from __future__ import annotations

import base64
import io

from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

__all__ = ["data_address"]


def data_address(figure: Figure, dpi: int = 180) -> str:
    """Return a ``data:`` address with the figure as SVG or as PNG in a palette, whichever is smaller.

    Args:
        figure: what to draw.
        dpi: pixels per inch of the PNG.
    """
    kinds = {"image/png": _png(figure, dpi), "image/svg+xml": _svg(figure)}
    kind = min(kinds, key=lambda name: len(kinds[name]))
    return f"data:{kind};base64,{base64.b64encode(kinds[kind]).decode('ascii')}"


def _png(figure: Figure, dpi: int) -> bytes:
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    drawn.seek(0)
    with Image.open(drawn) as image:
        # 128 colours keep the edges of letters smooth and grey levels apart, at a quarter of the size.
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(packed, format="png", optimize=True)
    return packed.getvalue()


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # The salt makes the names inside the file the same on every run.
    with rc_context({"svg.hashsalt": "pvae", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
