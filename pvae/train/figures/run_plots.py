"""`RunPlots`: the figures of a run as methods, each the same figure that ``pvae show`` draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pvae.figure_source import FigureSource
from pvae.names import require_known, require_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pvae.train.run import Run

__all__ = ["RunPlots"]


@dataclass(frozen=True)
class RunPlots(FigureSource):
    """The figures of a run. Each method returns one figure, which a notebook displays.

    All methods except `history` take these arguments:

    - ``data``: the data, in any form that `pvae.load_data` takes; by default the data of the training, which are loaded
    again by their name or path.
    - ``split``: ``"test"`` (the default), ``"validation"`` or ``"train"``.
    - ``count``: the number of pictures, codes, latent units, lines or columns.
    - ``seed``: the seed of the draws.

    They raise `pvae.InputError` if the data cannot be loaded, or the run has no such figure.

    Args:
        run: the run.
    """

    run: Run

    def history(self) -> Figure:
        """Return the loss and the validation bound of each epoch, in nats per datum."""
        return self.draw("history", None)

    def samples(self, data: Any = None, *, split: str = "test", count: int | None = None, seed: int = 0) -> Figure:
        """Return the mean of x for each z drawn from the prior; for tables, draws of x over the data.

        Args:
            data: see `RunPlots`.
            split: the split of the data.
            count: the number of draws; 40 by default.
            seed: the seed of the draws.
        """
        return self.draw("samples", data, split=split, count=count, seed=seed)

    def reconstructions(
        self, data: Any = None, *, split: str = "test", count: int | None = None, seed: int = 0
    ) -> Figure:
        """Return data above the mean of x for one z drawn from the guide.

        Args:
            data: see `RunPlots`.
            split: the split of the data.
            count: the number of data; 20 by default.
            seed: the seed of the draws.
        """
        return self.draw("reconstructions", data, split=split, count=count, seed=seed)

    def latent(self, data: Any = None, *, split: str = "test", count: int | None = None, seed: int = 0) -> Figure:
        """Return the latent codes of data, coloured by their labels.

        Args:
            data: see `RunPlots`.
            split: the split of the data.
            count: the number of data; 2000 by default.
            seed: the seed of the draws.
        """
        return self.draw("latent", data, split=split, count=count, seed=seed)

    def traversal(
        self,
        data: Any = None,
        *,
        site: str | None = None,
        split: str = "test",
        count: int | None = None,
        seed: int = 0,
    ) -> Figure:
        """Return the mean of x while one latent unit changes.

        Args:
            data: see `RunPlots`.
            site: the latent site; by default the first with real values.
            split: the split of the data.
            count: the number of latent units; 8 by default.
            seed: the seed of the draws.
        """
        return self.draw("traversal", data, split=split, count=count, site=site, seed=seed)

    def plane(self, data: Any = None, *, split: str = "test", count: int | None = None, seed: int = 0) -> Figure:
        """Return the mean of x over a two-dimensional latent space.

        Args:
            data: see `RunPlots`.
            split: the split of the data.
            count: the number of values of each unit; 15 by default.
            seed: the seed of the draws.
        """
        return self.draw("plane", data, split=split, count=count, seed=seed)

    def interpolation(
        self, data: Any = None, *, split: str = "test", count: int | None = None, seed: int = 0
    ) -> Figure:
        """Return the mean of x between the codes of two data, a pair on each line.

        Args:
            data: see `RunPlots`.
            split: the split of the data.
            count: the number of pairs; 8 by default.
            seed: the seed of the draws.
        """
        return self.draw("interpolation", data, split=split, count=count, seed=seed)

    def inpainting(self, data: Any = None, *, split: str = "test", count: int | None = None, seed: int = 0) -> Figure:
        """Return data with missing entries, with imputed entries, and complete.

        Args:
            data: see `RunPlots`.
            split: the split of the data.
            count: the number of data; 16 by default.
            seed: the seed of the draws.
        """
        return self.draw("inpainting", data, split=split, count=count, seed=seed)

    def draw(self, name: str, data: Any = None, **options: Any) -> Figure:
        """Return any figure of ``pvae show --what``, such as ``"classes"`` or ``"components"``.

        Args:
            name: the name of the figure.
            data: see `RunPlots`.
            options: ``split``, ``count``, ``site`` and ``seed``.

        Raises:
            InputError: for an unknown name or option, if the data cannot be loaded, or if the run has no such figure.
        """
        from pvae.data import Splits
        from pvae.train.figures.draw_figure import draw_figure
        from pvae.train.figures.run_figures import FIGURES
        from pvae.train.run_data import data_of_run

        def load_splits() -> Splits:
            return data_of_run(self.run.config, data)

        require_known("figure", name, FIGURES)
        require_settings(f"the figure {name!r} of a run", options, ("split", "count", "site", "seed"))
        return draw_figure(self.run, name, load_splits, **options)
