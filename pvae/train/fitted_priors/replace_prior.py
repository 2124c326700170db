"""`fit_prior`: fit a density to the codes of a trained model, and use it as p(z)."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.data import Splits
from pvae.data.scaling import narrowed
from pvae.errors import InputError
from pvae.fit_options import PriorFitOptions
from pvae.models.fitted_prior import PriorRecipe, TwoStageModel, with_prior
from pvae.programs.binding import Fields
from pvae.programs.queries import inference_mode
from pvae.programs.sites import log_density
from pvae.train.devices import isolated
from pvae.train.distributed.training_group import TrainingGroup
from pvae.train.fitted_priors.bound_change import change_of_bound
from pvae.train.fitted_priors.code_site import CodeSite, find_code_site
from pvae.train.fitted_priors.codes import Codes, CodeSource, encode_training_data
from pvae.train.fitted_priors.fitted_density import FitSettings, FittedDensity
from pvae.train.fitted_priors.kinds import PRIOR_KINDS, default_kind, parse_kind, require_fitting_kind
from pvae.train.fitted_priors.new_run import new_run
from pvae.train.recorded_tensors import digest_without_prior, tensors_of
from pvae.train.run import Run
from pvae.train.run_data import data_of_run
from pvae.train.run_folder import locked_config
from pvae.train.training_request import checked_folder

__all__ = ["fit_prior"]


def fit_prior(
    run: Run,
    kind: str | None = None,
    data: Any = None,
    *,
    draws: int = 1,
    means: bool = False,
    epochs: int = PriorFitOptions.epochs,
    batch_size: int = PriorFitOptions.batch_size,
    learning_rate: float = PriorFitOptions.learning_rate,
    seed: int = PriorFitOptions.seed,
    out: str | Path | None = None,
) -> Run:
    """Fit a density to the codes of a trained model, and return a run of the model with this density as p(z).

    The codes are draws of q(z given x) for the training data. The guide and p(x given z) do not change: the ELBO and
    the log evidence change by the prior alone, and samples are drawn from the new prior. `run` does not change either.

    The model has one latent site with real numbers, or layers of them, and then the topmost one gets the new prior; or
    one site of discrete codes, as a `pvae.VQVAE` has.

    Args:
        run: the run of the model, from `pvae.fit` or `pvae.open_run`.
        kind: the kind of density, with settings after colons, such as ``"mixture:components=10"``. None means
            ``"mixture"`` for real numbers, and ``"autoregressive"`` for codes. For real numbers: ``"full-gaussian"``;
            ``"mixture"``, of full Gaussians, with the number of components by the Bayesian information criterion;
            ``"flow"``; ``"aggregate"``, the mixture of q(z given x) at 500 training data; ``"vamp"``, the mixture of q
            at 100 learned pseudo-inputs; ``"vae"``, a second VAE with a latent variable that is a further layer of the
            model. For codes: ``"autoregressive"``, a causal transformer.
        data: the data of the training, if the run does not record where they are: `Splits` (the training split is
            used), or anything else that `pvae.load_data` accepts.
        draws: the number of draws of z per datum.
        means: whether to fit the means of q in place of draws. The density is then narrower than the codes.
        epochs: the number of passes over the codes, for kinds that are fitted by gradients. A tenth of the codes is
            left out, and the parameters with the greatest likelihood of them are kept.
        batch_size: the number of codes of a step, for these kinds.
        learning_rate: the learning rate of Adam, for these kinds.
        seed: the seed of all draws.
        out: the folder of the new run; None keeps it in memory.

    Returns:
        The new run. Its ``config["prior"]`` holds the kind, the settings and the results of the fit, with the change of
        the ELBO of the validation data, if any. A warning is given if the ELBO decreases. Its history is that of the
        training, with the prior of the training.

    Raises:
        InputError: for a model without such a site, a kind that does not fit its codes, data that are not those of the
            training, or other input that cannot be used; `out` is then unchanged.
    Sources: Ghosh et al., From Variational to Deterministic Autoencoders, arXiv:1903.12436, section 4 (densities of
    codes); Dai & Wipf, Diagnosing and Enhancing VAE Models, arXiv:1903.05789 (two stages); Tomczak & Welling, VAE with
    a VampPrior, arXiv:1705.07120 (mixtures of q); van den Oord, Vinyals & Kavukcuoglu, Neural Discrete Representation
    Learning, arXiv:1711.00937 (autoregressive codes).

    Example:
        >>> import pvae, torch
        >>> x = torch.eye(4).repeat(10, 1)
        >>> run = pvae.fit("vae:latent=2:hidden=8", x, epochs=1, step="eager", progress=False)
        >>> better = pvae.fit_prior(run, "full-gaussian", x)
        >>> better.config["prior"]["kind"], better.model.sample(3).shape
        ('full-gaussian', torch.Size([3, 4]))
    """
    if TrainingGroup().is_shared:
        raise InputError(
            "fit_prior works in one process; this process is one of several. Call it after the training has ended."
        )
    draws = require_whole(draws, "draws")
    settings = FitSettings(epochs, batch_size, learning_rate, seed)
    chosen = None if kind is None else parse_kind(kind)
    folder = checked_folder(out)
    run._require_trained_guide("fit_prior")
    fields = run.fields
    with ExitStack() as stack:
        locked_config(stack, folder, resume=False)
        stack.enter_context(isolated(settings.seed))
        splits = _training_data(run, data)
        source = CodeSource(run.model, splits, fields)
        batch = source.first()
        site = find_code_site(run.model, batch, fields)
        name, choices = chosen or (default_kind(site), {})
        require_fitting_kind(name, site)
        codes = encode_training_data(source, site, draws=draws, means=means)
        fitted = PRIOR_KINDS[name].fit(codes, settings, **choices)
        recipe = PriorRecipe(name, site.name, site.shape, fitted.settings)
        model = with_prior(copy.deepcopy(run.model), recipe, fitted.density.to(_dtype(run)))
        _require_in_place(model, batch, fields, site)
        facts = _facts(run, codes, fitted, settings, means=means) | change_of_bound(source, model, settings.seed)
        return new_run(run, model, recipe, facts, folder)


def _training_data(run: Run, data: Any) -> Splits:
    """Return the data of a run in the form of its training.

    Raises:
        InputError: if they are not known, or are not those of the training.
    """
    recorded = run.config["data"]
    if not isinstance(data, Splits):
        splits = data_of_run(run.config, data)
    else:
        how = recorded["binarise"]
        splits = data if data.binarise == how or how == "none" else data.binarised(how)
        splits = splits.map_data(partial(narrowed, dtype=_dtype(run)))
    if splits.checksum != recorded["checksum"]:
        raise InputError(
            f"A prior is fitted to the codes of the training data; {splits.name} has the checksum "
            f"{splits.checksum[:12]}..., the data of the training {recorded['checksum'][:12]}.... Give the data that "
            "the run was trained on."
        )
    return splits


def _dtype(run: Run) -> torch.dtype:
    return torch.float64 if run.config["training"]["precision"] == "float64" else torch.float32


def _require_in_place(model: Any, batch: Batch, fields: Fields, site: CodeSite) -> None:
    """Raise RuntimeError if the density of the site in the model is not the fitted one; run both programs once."""
    with inference_mode(model, batch, fields) as programs:
        _, trace = programs.bound_to(batch).trace_both()
        node: Any = trace.nodes[site.name]
        if isinstance(model, TwoStageModel):
            return
        density = model.prior(model.encode if model.prior.takes_posterior else None)
        if not torch.allclose(log_density(node), density.log_prob(node["value"]), rtol=1e-4, atol=1e-4):
            raise RuntimeError(f"The density of {site.name} is not the fitted prior. Please report this as a bug.")


def _facts(run: Run, codes: Codes, fitted: FittedDensity, settings: FitSettings, *, means: bool) -> dict[str, Any]:
    """Return the record of a fit: the model and data of the codes, and how the codes were drawn."""
    return {
        "parameters": digest_without_prior(run.model, tensors_of(run.model, run.config)),
        "codes": "means" if means else "draws",
        "draws": codes.draws,
        "count": codes.count,
        "seed": settings.seed,
        **fitted.facts,
    }
