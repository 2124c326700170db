"""`VAEGAN`: a VAE whose reconstructions are compared with the data by features of a critic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pvae.checks import require_number, require_positive, require_whole
from pvae.errors import InputError
from pvae.objectives.adversarial.base import Adversarial
from pvae.objectives.adversarial.critic_inputs import Simulation, simulate
from pvae.objectives.adversarial.critics import as_output, frozen_parameters
from pvae.objectives.adversarial.sides import Sides
from pvae.objectives.adversarial.vae_gan_inputs import (
    VAEGANInputs,
    draw_one_site,
    prior_of,
    reconstruct_and_sample,
    with_value,
)
from pvae.objectives.base import Terms, scaled_sums
from pvae.objectives.kl.kl_by_unit import LatentSite
from pvae.objectives.named import named
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import Site
from pvae.randomness import evaluating

__all__ = ["VAEGAN"]

#: the losses of a critic that estimates log ratios
_LOGISTIC = ("minimax", "non-saturating")
#: log of the number of class 0 draws per class 1 draw in the critic's loss: a reconstruction and a sample
_LOG_ODDS = math.log(2.0)


@named("vae-gan", "VAE-GAN: reconstructions are compared by features of a critic of data and model; biased")
class VAEGAN(Adversarial):
    """VAE-GAN: the likelihood of a VAE is replaced by a Gaussian of features that a critic of x computes.

    The features f(x) are the outputs of one hidden layer of the critic, and the mean of p(x given z) is the
    reconstruction. Each of three parameter groups has its own loss, in nats per datum:

    - ``phi``: KL(q(z given x) to p(z)) - log N(f(x); f(reconstruction), s^2);
    - ``theta``: -gamma * log N(f(x); f(reconstruction), s^2), plus the losses of a GAN's generator for the
      reconstruction and for a sample (the mean of p(x given z) for z from the prior);
    - ``critic``: the cross-entropy of data (class 1) against reconstructions and samples (class 0).

    A step updates the three in this order, on the same data with new draws, and no loss changes another group: the
    critic gets no gradient from the distance of the features, and phi gets no gradient from the critic's output. A
    prior with parameters is trained only by the samples.

    As each datum has two draws of class 0, `log_ratio` adds log 2 to the critic's output: it estimates
    log q(x) - log p(x), where p is the equal mixture of reconstructions and samples. ``jensen_shannon`` is the
    divergence between these two distributions. ``kl`` and ``feature_log_likelihood`` are recorded too.

    Only means of p(x given z) are trained. The likelihood is not a density of the data, and its noise is not trained,
    so there is no evidence: evaluations, comparisons, imputations and draws with noise are refused. Samples are
    ``run.sample(mean=True)``. No score ranks epochs, so the last parameters are kept.

    Args:
        gamma: the weight of the features in the loss of theta, at least 0; the critic's terms have the weight 1.
        layer: the hidden layer with the features as its outputs, counted from 1; None is the first one of the built-in
            critic, and all modules but the last one of `critic`.
        scale: s, the standard deviation of the Gaussian of the features; 1 in the paper. If ``kl`` falls towards 0 in
            training, the features are small or few, and a smaller scale makes the codes more informative.
        loss: ``"minimax"`` (the paper's) or ``"non-saturating"``, which has a larger gradient for theta where the
            critic is certain.
        critic_steps: the number of updates of the critic per step.
        hidden: the sizes of the critic's hidden layers.
        spectral: whether the critic's weights are divided by their largest singular values.
        critic: a `torch.nn.Sequential` from x (flat, then the conditions) to one number each, used instead of the
            built-in critic; its first `layer` modules give the features.

    Raises:
        InputError: for a setting out of its range, or a layer that the critic does not have; in use, if a program has
            several latent sites or one without a pathwise gradient or a density, or if a likelihood has no mean.

    Source: Larsen, Sønderby, Larochelle & Winther, Autoencoding beyond pixels using a learned similarity metric,
        arXiv:1512.09300, section 2 and algorithm 1.

    Example:
        >>> import pvae, torch
        >>> model = pvae.VAE(4, latent=2, hidden=8, likelihood="gaussian:scale=0.1")
        >>> objective = pvae.VAEGAN(hidden=(8, 8), layer=1)
        >>> run = pvae.fit(model, torch.randn(40, 4), objective=objective, epochs=1, step="eager", progress=False)
        >>> objective.players, tuple(run.sample(5, mean=True).shape)
        (('phi', 'theta', 'critic'), (5, 4))
    """

    players = ("phi", "theta", "critic")
    moves = "p"
    default_loss = "minimax"
    no_bound = "features of the critic replace the likelihood, so the loss is not a bound on the evidence"
    no_density = "features of a critic replace the likelihood, so p(x given z) is not trained as a density of x"

    def __init__(
        self,
        gamma: float = 0.1,
        layer: int | None = None,
        scale: float = 0.1,
        loss: str = "minimax",
        critic_steps: int = 1,
        *,
        hidden: int | Sequence[int] = (128, 128),
        spectral: bool = False,
        critic: nn.Module | None = None,
    ) -> None:
        super().__init__(loss, critic_steps, hidden=hidden, spectral=spectral, critic=critic)
        if loss not in _LOGISTIC:
            raise InputError(f"VAEGAN needs loss='minimax' or 'non-saturating'; got {loss!r}.")
        self.gamma = float(require_number(gamma, "gamma", least=0))
        self.layer = None if layer is None else require_whole(layer, "layer")
        self.scale = require_positive(scale, "scale")
        self._depth = self._find_depth(critic)

    def _find_depth(self, critic: nn.Module | None) -> int:
        """Return the number of modules of the critic that compute the features."""
        if critic is None:
            layers, default, modules_each = len(self.hidden), 1, 2  # a linear map and a rectifier
        elif isinstance(critic, nn.Sequential):
            layers, default, modules_each = len(critic) - 1, len(critic) - 1, 1
        else:
            raise InputError(
                "VAEGAN needs a critic with layers that can run separately, a torch.nn.Sequential; got "
                f"{type(critic).__name__}. Put its layers into a Sequential."
            )
        layer = default if self.layer is None else self.layer
        if not 1 <= layer <= layers:
            raise InputError(
                f"The features of VAEGAN need a layer before the last one, from 1 to {layers}; got layer={layer} for a "
                f"critic with {layers} such layers. Choose another layer, or a deeper critic."
            )
        return layer * modules_each

    def settings(self) -> dict[str, Any]:
        """Return gamma, and the other settings that are not the defaults."""
        layer = {} if self.layer is None else {"layer": self.layer}
        scale = {} if self.scale == 0.1 else {"scale": self.scale}
        return {"gamma": self.gamma, **layer, **scale, **super().settings()}

    def sides(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sides:
        """Return the data, and the same number of samples: means of p(x given z) for z from the prior."""
        sampled = simulate(BoundPrograms(model, guide, args, kwargs), means=True)
        return Sides(tuple(sampled.data.values()), tuple(sampled.drawn.values()), sampled.scale)

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a player for one batch: the sum over data, each times its scale."""
        programs = BoundPrograms(model, guide, args, kwargs)
        self._make_critic(programs)
        conditions = self._condition_rows(args, kwargs)
        if player == "phi":
            return self._phi_terms(programs, conditions)
        with torch.no_grad():
            trace = draw_one_site(programs)[1]
        if player == "theta":
            return self._theta_terms(reconstruct_and_sample(programs, trace), conditions)
        with torch.no_grad():
            inputs = reconstruct_and_sample(programs, trace)
        return self._three_class_terms(inputs, conditions)

    def divergence(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the Jensen-Shannon divergence of data and model that the critic estimates, without a change of state.

        It is between the data, and the equal mixture of reconstructions and samples, on new draws, in nats.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
        """
        programs = BoundPrograms(model, guide, args, kwargs)
        self._make_critic(programs)
        with evaluating(self), torch.no_grad():
            inputs = reconstruct_and_sample(programs, draw_one_site(programs)[1])
            outputs = self._three_outputs(inputs, self._condition_rows(args, kwargs))[1]
            return float(self._named(*outputs)["jensen_shannon"].mean())

    def log_ratio(self, *parts: Tensor) -> Tensor:
        """Return the critic's estimate of log q - log p, shape (batch,), in nats; p is reconstructions and samples.

        Args:
            parts: the observed sites, in the order of the model, then the conditions if there are any, each of shape
                (batch, ...).

        Raises:
            InputError: before the first batch, or for another number of features.
        """
        return super().log_ratio(*parts) + _LOG_ODDS

    def _phi_terms(self, programs: BoundPrograms, conditions: tuple[Tensor, ...]) -> Terms:
        """Return the loss of the encoder; its surrogate has gradients for phi alone.

        The distance of the features is differentiated with respect to z alone, at fixed theta, and the chain rule
        through the draw of z gives the gradient for phi.
        """
        name, trace = draw_one_site(programs)
        with torch.no_grad():  # the prior at fixed theta
            prior = prior_of(programs, trace, name)
        guide: Site = trace.nodes[name]
        kl = LatentSite(guide, prior, programs.layout.data_plate()[1], None).kl(True)[0].sum((0, 2))
        z: Tensor = guide["value"]
        is_training = torch.is_grad_enabled()
        fixed = z.detach().requires_grad_(is_training)
        reconstructed = simulate(programs, with_value(trace, name, fixed), at_codes=True, means=True)
        log_likelihood = self._feature_log_likelihood(reconstructed, conditions)
        scale = reconstructed.scale
        loss = ((kl - log_likelihood) * scale).sum()
        named = scaled_sums({"kl": kl, "feature_log_likelihood": log_likelihood}, scale)
        if not is_training:
            return Terms(loss, loss, named)
        (slope,) = torch.autograd.grad((log_likelihood * scale).sum(), fixed)
        return Terms(loss.detach(), (kl * scale).sum() - (slope * z).sum(), named)

    def _feature_log_likelihood(self, reconstructed: Simulation, conditions: tuple[Tensor, ...]) -> Tensor:
        """Return log N(f(x); f(reconstruction), s^2), shape (batch,), with the critic's parameters frozen."""
        rows = [self._rows(tuple(part.values()), conditions) for part in (reconstructed.data, reconstructed.drawn)]
        with frozen_parameters(self._require_network()):
            data, drawn = self._features(torch.cat(rows)).flatten(1).chunk(2)
        return _log_normal(data, drawn, self.scale)

    def _theta_terms(self, inputs: VAEGANInputs, conditions: tuple[Tensor, ...]) -> Terms:
        """Return the loss of the decoder, with the critic's parameters frozen and codes without gradient."""
        with frozen_parameters(self._require_network()):
            features, outputs = self._three_outputs(inputs, conditions)
        data, reconstructed, _ = features
        judged = self.rule.fool_p(outputs[1]) + self.rule.fool_p(outputs[2])
        loss = ((judged - self.gamma * _log_normal(data, reconstructed, self.scale)) * inputs.scale).sum()
        return Terms(loss.detach(), loss)

    def _three_class_terms(self, inputs: VAEGANInputs, conditions: tuple[Tensor, ...]) -> Terms:
        """Return the critic's loss, with its estimate of the divergence."""
        data, reconstructed, sampled = self._three_outputs(inputs, conditions)[1]
        by_datum = self.rule.on_q(data) + self.rule.on_p(reconstructed) + self.rule.on_p(sampled)
        loss = (by_datum * inputs.scale).sum()
        return Terms(loss.detach(), loss, scaled_sums(self._named(data, reconstructed, sampled), inputs.scale))

    def _named(self, data: Tensor, reconstructed: Tensor, sampled: Tensor) -> dict[str, Tensor]:
        """Return the divergence and the accuracy of the critic, each of shape (batch,), from its outputs."""
        data, reconstructed, sampled = (output.detach() + _LOG_ODDS for output in (data, reconstructed, sampled))
        on_p = 0.5 * (self.rule.on_p(reconstructed) + self.rule.on_p(sampled))
        right = 0.5 * ((reconstructed < 0).to(data) + (sampled < 0).to(data))
        return {
            "jensen_shannon": self.rule.implied(self.rule.on_q(data) + on_p),
            "critic_accuracy": 0.5 * ((data > 0).to(data) + right),
        }

    def _three_outputs(
        self, inputs: VAEGANInputs, conditions: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return features, each (batch, features), and outputs, each (batch,), of data, reconstructions and samples.

        One pass evaluates all, because each pass updates the singular vectors of spectral normalisation.
        """
        rows = torch.cat([self._rows(part, conditions) for part in (inputs.data, inputs.reconstructed, inputs.sampled)])
        features = self._features(rows)
        rest: nn.Module = self._require_network()[self._depth :]  # type: ignore[index]
        return features.flatten(1).chunk(3), as_output(rest(features), len(rows)).chunk(3)

    def _features(self, rows: Tensor) -> Tensor:
        """Return the features of rows of x, shape (rows, ...), in the form that the rest of the critic takes."""
        features: Tensor = self._require_network()[: self._depth](rows)  # type: ignore[index]
        return features


def _log_normal(features: Tensor, means: Tensor, scale: float) -> Tensor:
    """Return the log-density of features under a Gaussian with one scale for all, shape (batch,), in nats."""
    constant = (math.log(scale) + 0.5 * math.log(2.0 * math.pi)) * features.shape[1]
    return -0.5 * ((features - means) / scale).square().sum(1) - constant
