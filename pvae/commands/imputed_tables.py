"""The output of ``pvae impute``: means, completed data sets, or means with quantiles."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pvae.errors import InputError

__all__ = ["ImputedOutput"]

#: Draws of which quantiles are taken.
_DRAWS_OF_QUANTILES = 1000


@dataclass(frozen=True)
class ImputedOutput:
    """The kind of output of ``pvae impute``.

    Attributes:
        draws: the number of completed data sets, or None for the mean.
        quantiles: the quantiles to write beside the mean, each between 0 and 1.
        settings: the other arguments of `Run.impute`.
    """

    draws: int | None
    quantiles: tuple[float, ...]
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, draws: int | None, quantiles: str | None, settings: Mapping[str, Any]) -> ImputedOutput:
        """Return the output that the options of the command ask for.

        Raises:
            InputError: if both options are given, or a quantile is not between 0 and 1.
        """
        if draws is not None and quantiles is not None:
            raise InputError("--draws and --quantiles cannot be written into one file. Leave one of them out.")
        return cls(draws, _parse_quantiles(quantiles), settings)

    def of_run(self, run: Any, data: Mapping[str, Any]) -> Any:
        """Return the output as a frame with names, or as a tensor.

        Args:
            run: an opened run.
            data: the arguments ``data`` and ``split`` of `Run.impute`.
        """
        if self.quantiles:
            return self._with_quantiles(run, data)
        if self.draws is None:
            return run.impute(**data, **self.settings)
        return _stacked(run.impute(**data, **self.settings, n=self.draws))

    def _with_quantiles(self, run: Any, data: Mapping[str, Any]) -> Any:
        import numpy as np
        import pandas as pd

        from pvae.memory import require_memory

        means = _named(run.impute(**data, **self.settings))
        # the draws are in memory as one tensor, as frames, and as one array
        need, use = 3.0 * _DRAWS_OF_QUANTILES * means.memory_usage().sum(), "Quantiles of imputed data"
        require_memory(need, "cpu", use, "Write --draws, or impute a part of the file.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the computation of the means has given the same warnings
            draws = [_named(drawn) for drawn in run.impute(**data, **self.settings, n=_DRAWS_OF_QUANTILES)]
        levels = np.quantile(np.stack([drawn.to_numpy() for drawn in draws]), self.quantiles, axis=0)
        columns = {}
        for position, name in enumerate(means.columns):
            columns[name] = means[name].to_numpy()
            columns |= {
                f"{name}_q{level:g}": values[:, position] for level, values in zip(self.quantiles, levels, strict=True)
            }
        return pd.DataFrame(columns)


def _parse_quantiles(text: str | None) -> tuple[float, ...]:
    try:
        levels = tuple([float(part) for part in text.split(",")]) if text is not None else ()
    except ValueError:
        levels = (-1.0,)
    if text is not None and not all(0 < level < 1 for level in levels):
        raise InputError(f"--quantiles needs numbers between 0 and 1, such as 0.05,0.95; got {text!r}.")
    return levels


def _named(values: Any) -> Any:
    """Return data as a frame; columns without names are ``x_0``, ``x_1``, ..."""
    import pandas as pd

    if isinstance(values, pd.DataFrame):
        return values.rename(columns=str)
    table = values.reshape(len(values), -1).numpy()
    return pd.DataFrame(table, columns=[f"x_{column}" for column in range(table.shape[1])])


def _stacked(completed: list[Any]) -> Any:
    """Return completed data sets below each other, with the number of the data set in the column ``draw``, from 0."""
    import pandas as pd

    frames = [_named(values) for values in completed]
    for draw, frame in enumerate(frames):
        if "draw" in frame.columns:
            raise InputError("The data have a column 'draw', which --draws adds. Rename it, or use Run.impute(n=...).")
        frame.insert(0, "draw", draw)
    return pd.concat(frames, ignore_index=True)
