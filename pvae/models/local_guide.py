"""Inference without an encoder: the guide has free parameters for each datum."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pyro import poutine
from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.names import unknown
from pvae.programs.bound import BoundPrograms
from pvae.programs.distribution_parameters import free_parameters
from pvae.programs.sites import Site, sample_sites
from pvae.programs.wrapped import ReplaceParameters, WrappedModel
from pvae.randomness import evaluating

__all__ = ["LocalGuide"]

STARTS = ("encoder", "prior")


class LocalGuide(WrappedModel):
    """A latent model without amortisation: q has free parameters for each datum, one row of a table.

    The model is that of `latent_model`. The guide has the sites and families of its guide. It adds a row of the table
    to each of their unconstrained parameters; the field ``index`` of the batch selects the row. Rows start at zero, so
    that q starts at `start`. The starting q comes from a frozen copy of `latent_model`, so a row is as free as the
    parameter itself. If the distribution of one latent site depends on the value of another one, this dependence is
    that of the copy and is not trained.

    The rows are the parameters ``phi()``. They are made in the first run of the guide. Rows of data that were not in
    the training are still zero, so evaluate on the training data, or refine the guide by `SemiAmortised`.

    Args:
        latent_model: a module with ``model`` and ``guide``; its ``theta`` is trained, but its encoder is not.
        count: the number of data of all splits together; indices are from 0 to count - 1.
        start: ``"encoder"``, or ``"prior"`` for models with one latent site.

    Raises:
        InputError: for a count below 1, or an unknown start; in use, if a guide site has no parameters, if prior and
            guide are of different families, or if no plate has one entry for each index.

    Example:
        >>> import pvae, torch
        >>> data = pvae.Batch(x=torch.eye(4), index=torch.arange(4))
        >>> local = pvae.LocalGuide(pvae.VAE(4, latent=2, hidden=8), count=4)
        >>> pvae.log_weights(local, data, particles=3).log_w.shape
        torch.Size([3, 4])
        >>> [tuple(rows.shape) for rows in local.phi()]  # two means and two scales for each datum
        [(4, 2), (4, 2)]
    """

    def __init__(self, latent_model: Any, count: int, start: str = "encoder") -> None:
        super().__init__(latent_model, ["index"])
        count = require_whole(count, "count", advice="It is the number of data.")
        if start not in STARTS:
            raise unknown("start of LocalGuide", str(start), STARTS)
        self.count, self.start = count, start
        self.frozen: Any = copy.deepcopy(latent_model).requires_grad_(False)
        self.rows = nn.ParameterDict()

    def phi(self) -> list[nn.Parameter]:
        """Return the tables of rows, each of shape (count, ...); none before the first run of the guide."""
        return list(self.rows.values())

    def run_guide(self, *args: Any, **kwargs: Any) -> Any:
        """Run the frozen guide with the rows of the batch's data added to its parameters."""
        arguments = self.arguments_by_name(args, kwargs)
        index = arguments["index"]
        priors = self._trace_priors(arguments) if self.start == "prior" else {}

        def starting_density(site: Site) -> Any:
            return _prior_like(site, priors[site["name"]]) if priors else site["fn"]

        def add_row(site: Site, name: str, value: Tensor) -> Tensor:
            return self._add_row(index, site, name, value)

        with evaluating(self.frozen), ReplaceParameters(add_row, starting_density):
            return self.frozen.guide(**self.arguments_for(self.frozen.guide, arguments))

    def _trace_priors(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the prior of the latent site, by name, from a run of the frozen model.

        The run is part of the guide, and is hidden from traces outside the guide.
        """
        frozen = self.frozen
        bound = BoundPrograms(frozen.model, frozen.guide, (), self.arguments_for(frozen.model, arguments))
        with poutine.block(), evaluating(frozen):
            trace = bound.trace_model()
        priors = {site["name"]: site["fn"] for site in sample_sites(trace) if not site["is_observed"]}
        if len(priors) > 1:
            raise InputError(
                f"start='prior' needs a model with one latent site; this one has {', '.join(priors)}. The prior of "
                "a site that depends on another one changes with its value, so it is not a starting point. Use "
                "start='encoder'."
            )
        return priors

    def _add_row(self, index: Tensor, site: Site, name: str, value: Tensor) -> Tensor:
        """Return an unconstrained parameter of a site plus the rows of the data.

        Args:
            index: indices of the data, (batch,).
            site: the guide's site.
            name: name of the parameter.
            value: the parameter, batch shape + parameter shape. The table has the shape of the parameter within the
                plates, with the data dimension first, of size `count`.
        """
        data_dim, leftmost_dim = _data_dims(site, len(index))
        event_dims = value.dim() - len(site["fn"].batch_shape)
        shape = list(value.shape[leftmost_dim - event_dims :]) if leftmost_dim < 0 else list(value.shape)
        data_position = len(shape) + data_dim - event_dims
        del shape[data_position]
        key = f"{site['name']}-{name}".replace(".", "-")
        if key not in self.rows:
            self.rows[key] = nn.Parameter(value.new_zeros(self.count, *shape))
        return value + self.rows[key][index].movedim(0, data_position)


def _data_dims(site: Site, size: int) -> tuple[int, int]:
    """Return the dimension of the data plate of a site, and that of the leftmost plate that contains the site.

    Args:
        site: a site of the guide.
        size: the number of data.
    """
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    data_dims = [frame.dim for frame in frames if frame.size == size]
    if not data_dims:
        raise InputError(
            f"Guide site {site['name']!r} is in no plate of {size} data, one for each entry of index. A row per datum "
            "needs `with pyro.plate('data', len(x))`; write it in the guide."
        )
    return max(data_dims), min(frame.dim for frame in frames)


def _prior_like(site: Site, prior: Any) -> Any:
    """Return the prior in the batch shape of a guide site.

    Raises:
        InputError: if prior and guide are of different families.
    """
    guide_family, guide_names = free_parameters(site["name"], site["fn"])
    prior_family, prior_names = free_parameters(site["name"], prior)
    if (guide_family, guide_names) != (prior_family, prior_names):
        raise InputError(
            f"start='prior' needs guide and prior of the same family at site {site['name']!r}; they have parameters "
            f"{', '.join(guide_names)} of {guide_family} and {', '.join(prior_names)} of {prior_family}. Use "
            "start='encoder'."
        )
    return prior.expand(site["fn"].batch_shape)
