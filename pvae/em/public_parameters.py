"""The public parameters of a mixture. They alone determine it, also where a user has set them by hand."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from pvae.em.base import CovarianceFamily, Mixture, mixture_from_whitening, whitening_from_precisions
from pvae.em.check_parameters import check_parameters
from pvae.em.covariances.families import FAMILIES
from pvae.em.read_inputs import OutputFormat, check_positive_definite, check_weights, read_parameter
from pvae.em.rows.row_sources import as_tensor
from pvae.errors import InputError

__all__ = ["PUBLIC", "PublicMixture", "kept_mixture", "mixture_of_values", "on_device", "public_values"]

#: Any one of the last three determines the covariances.
PUBLIC = ("weights_", "means_", "precisions_cholesky_", "covariances_", "precisions_")
_SHAPES = PUBLIC[2:]
#: Largest relative difference between covariances and precisions that are set together.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-5}


class PublicMixture(BaseEstimator):
    """A mixture that is determined by its public parameters.

    The hidden attribute ``_kept`` has the parameters as they were published, in float64 and as NumPy arrays, so that
    results of float32 data keep their precision, and a change of a public parameter is noticed.
    """

    def __sklearn_tags__(self) -> Any:
        """Return the tags of scikit-learn; NaN is allowed where it marks a missing value."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "marginalise"
        return tags

    def _publish(self, mixture: Mixture, output: OutputFormat, *, by_hand: bool = False) -> None:
        """Set the public parameters in the format of the data, and keep them in float64 too.

        Args:
            mixture: the parameters in the units of the data.
            output: the format.
            by_hand: whether the user has set them, so that no fit reached them.
        """
        values = public_values(mixture)
        for name, value in values.items():
            converted = output.convert(value)
            setattr(self, name, converted if output.is_tensor else converted.copy())
        doubles = {**values, "roots": mixture.roots}
        self._kept: dict[str, Any] = {name: value.cpu().numpy().copy() for name, value in doubles.items()}
        self._kept |= {
            "covariance_type": mixture.family.name,
            "n_components": int(self.n_components),
            "dtype": str(output.dtype).removeprefix("torch."),
            "by_hand": by_hand,
        }

    def _mixture(self, device: torch.device) -> Mixture:
        """Return the public parameters in float64, and bring those that follow from the others up to date.

        Raises:
            InputError: if they do not fit each other, or the covariance type is not that of the fit.
        """
        self._check_covariance_type()
        mixture = None if self._changed() else kept_mixture(self._kept)
        if mixture is None:
            mixture = self._read_mixture()
            self._publish(mixture, self._output_format(), by_hand=True)
        features: int = mixture.features
        read = getattr(self, "n_features_in_", features)
        if read != features:
            raise InputError(
                f"The mixture has means of {features} features, and was last given data of {read} features to fit. Fit "
                "it again (without warm_start), or set n_features_in_ too."
            )
        self.n_features_in_ = features
        return on_device(mixture, device)

    def _check_covariance_type(self) -> None:
        """Check that the parameter covariance_type is that of the fit, if there was one."""
        fitted = self.__dict__.get("_kept", {}).get("covariance_type", self.covariance_type)
        if fitted != self.covariance_type:
            raise InputError(
                f"covariance_type is {self.covariance_type!r}, but the mixture was fitted with {fitted!r}. Fit it "
                f"again (without warm_start), or set covariance_type={fitted!r}."
            )

    def _check_components(self) -> None:
        """Check that the number of components is that of the fit which is to be continued."""
        if self._kept["n_components"] != self.n_components:
            raise InputError(
                f"n_components is {self.n_components}, but the fit that is to be continued had "
                f"{self._kept['n_components']}. Set n_components={self._kept['n_components']}, or start again with "
                "warm_start=False."
            )

    def _check_continues(self) -> None:
        """Check that the public parameters are those that `partial_fit` reached, whose statistics do not follow them.

        Raises:
            InputError: otherwise.
        """
        self._check_covariance_type()
        self._check_components()
        if self._changed() or self._kept["by_hand"]:
            raise InputError(
                "partial_fit continues from the statistics of the earlier batches, and the parameters were changed "
                "since. Give them as weights_init, means_init and precisions_init to a new GaussianMixture."
            )

    def _changed(self) -> list[str]:
        """Return the public parameters that are not as they were published: changed, in place too, or deleted."""
        kept = self.__dict__.get("_kept")
        return [name for name in PUBLIC if kept is None or not _is_published(getattr(self, name, None), kept, name)]

    def _read_mixture(self) -> Mixture:
        """Return the mixture of public parameters that a user has set.

        Raises:
            InputError: if they are incomplete, no parameters of a mixture, or contradict each other.
        """
        kept = self.__dict__.get("_kept")
        check_parameters(self.get_params(deep=False))
        changed = self._changed()
        values = {
            name: as_tensor(getattr(self, name)) if name in changed or kept is None else as_tensor(kept[name])
            for name in PUBLIC
            if getattr(self, name, None) is not None
        }
        given = [name for name in _SHAPES if name in values]
        if "weights_" not in values or "means_" not in values or not given:
            raise InputError(
                "A mixture needs weights_, means_, and covariances_ (or precisions_ or precisions_cholesky_); it has "
                f"{', '.join(values) or 'none of them'}. Set the others, or call fit."
            )
        # Where the user has changed one of the three, the other two follow it.
        given = [name for name in given if name in changed] or given[:1]
        return mixture_of_values(self.covariance_type, values, given)

    def _n_parameters(self) -> int:
        """Return the number of free parameters of the mixture."""
        mixture = self._mixture(torch.device("cpu"))
        components, features = mixture.means.shape
        return mixture.family.count_parameters(components, features) + features * components + components - 1

    def _output_format(self) -> OutputFormat:
        """Return the format of the public means; whole numbers become float64."""
        means = self.means_
        tensor = as_tensor(means)
        dtype = torch.float32 if tensor.dtype == torch.float32 else torch.float64
        return OutputFormat(isinstance(means, Tensor), dtype, tensor.device)


def on_device(mixture: Mixture, device: torch.device) -> Mixture:
    """Return a mixture with its tensors on a device."""
    parts = (mixture.weights, mixture.means, mixture.covariances, mixture.whitening, mixture.roots)
    return Mixture(mixture.family, *(values.to(device) for values in parts))


def public_values(mixture: Mixture) -> dict[str, Tensor]:
    """Return the public parameters of a mixture by name, float64."""
    whitening = mixture.whitening
    is_matrix = mixture.family.name in ("full", "tied")
    precisions = whitening @ whitening.mT if is_matrix else whitening.square()
    values = (mixture.weights, mixture.means, whitening, mixture.covariances, precisions)
    return dict(zip(PUBLIC, values, strict=True))


def kept_mixture(kept: dict[str, Any]) -> Mixture:
    """Return the mixture of parameters that were kept, float64."""
    names = ("weights_", "means_", "covariances_", "precisions_cholesky_", "roots")
    return Mixture(FAMILIES[kept["covariance_type"]], *(as_tensor(kept[name]) for name in names))


def _is_published(public: Any, kept: dict[str, Any], name: str) -> bool:
    """Return whether a public parameter is the kept one, rounded to the dtype in which it was published."""
    if public is None:
        return False
    values, dtype = as_tensor(public), getattr(torch, kept["dtype"])
    published = as_tensor(kept[name]).to(dtype)
    return values.dtype == dtype and values.shape == published.shape and torch.equal(values.cpu(), published)


def mixture_of_values(covariance_type: str, values: dict[str, Tensor], given: list[str]) -> Mixture:
    """Return the mixture of public parameters, float64.

    Args:
        covariance_type: the family of the covariances.
        values: parameters by name, of any dtype.
        given: the names of those that determine the covariances; the first does, and the others are compared with it.

    Raises:
        InputError: if they are no parameters of a mixture, or contradict each other.
    """
    family = FAMILIES[covariance_type]
    means = values["means_"]
    if means.ndim != 2 or 0 in means.shape:
        raise InputError(f"means_ needs the shape (components, features); got {tuple(means.shape)}.")
    components, features = means.shape
    tolerance = max(_TOLERANCE.get(values[name].dtype, 1e-5) for name in values)
    means = read_parameter(means.cpu(), (components, features), "means_")
    weights = read_parameter(values["weights_"].cpu(), (components,), "weights_")
    check_weights(weights, 1e-6 if tolerance < 1e-4 else 1e-4)
    shape = family.covariance_shape(components, features)
    read = {name: read_parameter(values[name].cpu(), shape, name) for name in given}
    mixture = _with_covariances(family, weights, means, given[0], read[given[0]])
    for name in given[1:]:
        _check_agreement(mixture, name, read[name], given[0], tolerance)
    return mixture


def _with_covariances(family: CovarianceFamily, weights: Tensor, means: Tensor, name: str, values: Tensor) -> Mixture:
    """Return the mixture whose parameter `name`, one of covariances, precisions and their factors, is `values`."""
    is_matrix = family.name in ("full", "tied")
    if name == "precisions_cholesky_":
        is_factor = not is_matrix or torch.equal(values, values.triu())
        diagonal = values.diagonal(dim1=-2, dim2=-1) if is_matrix else values
        if not is_factor or not bool((diagonal > 0).all()):
            raise InputError(
                "precisions_cholesky_ needs upper triangular matrices with a positive diagonal, or positive numbers; "
                "these are not. Set covariances_ and delete precisions_cholesky_, which then follows."
            )
        return mixture_from_whitening(family, weights, means, values)
    check_positive_definite(values, family, name)
    if name == "covariances_":
        return family.make_mixture(weights, means, values)
    return mixture_from_whitening(family, weights, means, whitening_from_precisions(family, values))


def _check_agreement(mixture: Mixture, name: str, values: Tensor, other: str, tolerance: float) -> None:
    """Check that a second parameter that determines the covariances says what the first one says."""
    components, features = mixture.components, mixture.features
    values, whitening, roots = (
        mixture.family.to_dense(part, components, features) for part in (values, mixture.whitening, mixture.roots)
    )
    outer = roots if name == "precisions_" else whitening
    identity = torch.eye(features, dtype=torch.float64)
    if not bool(((outer.mT @ values @ outer - identity).abs() <= tolerance).all()):
        raise InputError(
            f"{name} and {other} were both set, and contradict each other. Set one of them, and delete the other, "
            f"which then follows: del mixture.{name}"
        )
