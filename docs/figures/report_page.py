"""A picture of the first screens of a comparison's page, drawn by Chromium."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from pathlib import Path

from drawing import command
from PIL import Image

import pvae

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1000, 1500


class Screenshot:
    """A picture of a page, with the method of a figure that writes it."""

    def __init__(self, page: Path) -> None:
        browser = next(filter(None, map(shutil.which, BROWSERS)))
        with tempfile.TemporaryDirectory() as folder:
            shot = Path(folder) / "page.png"
            options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
            subprocess.run(
                [browser, *options, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True, timeout=120
            )
            self.picture = Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")

    def savefig(self, path: Path, dpi: int = 110) -> None:
        """Write the picture with 32 colours, which makes the file small; `dpi` has no effect."""
        self.picture.quantize(32).save(path, optimize=True)


def draw(tiny: bool) -> Screenshot:
    """Compare two objectives on the digits, and take a picture of the page."""
    objectives = {"elbo": "elbo", "iwae-8": "iwae:particles=8", "dreg-8": "dreg:particles=8"}
    with tempfile.TemporaryDirectory() as folder:
        result = pvae.compare(
            ["vae:latent=8:hidden=64"],
            "digits",
            dict(list(objectives.items())[: 1 if tiny else 3]),
            seeds=1 if tiny else 3,
            epochs=1 if tiny else 40,
            particles=20 if tiny else 500,
            limit=20 if tiny else None,
            workers=0,
            out=Path(folder) / "report",
            progress=False,
        )
        return Screenshot(Path(result.report).absolute())


if __name__ == "__main__":
    command("report_page", draw)
