"""`WrappedModel`: a latent model that uses the model of another one, and its guide with other parameters."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pvae.deprecation import renamed_method
from pvae.errors import InputError
from pvae.programs.base import LatentModel
from pvae.programs.distribution_parameters import with_parameters
from pvae.programs.model_traits import traits_of
from pvae.programs.parameter_groups import declared_group
from pvae.programs.registration import Registration
from pvae.programs.signatures import signature_of
from pvae.programs.sites import Site, is_latent_draw

__all__ = ["ReplaceParameters", "WrappedModel", "declared"]

#: A function of a site, the name of a parameter and its unconstrained value, that returns the value to use.
ParameterChange = Callable[[Site, str, Tensor], Tensor]

_OPEN_KINDS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class ReplaceParameters(Messenger):
    """A handler that replaces the parameters of the latent sites of a guide.

    Args:
        change: a function that returns the unconstrained value of a parameter to use instead.
        density: a function that returns the distribution of a site before the change; by default the guide's
            distribution.
    """

    def __init__(self, change: ParameterChange, density: Callable[[Site], Any] = lambda site: site["fn"]) -> None:
        super().__init__()
        self.change, self.density = change, density

    def _pyro_sample(self, msg: Any) -> None:
        if is_latent_draw(msg):
            distribution = self.density(msg)
            msg["fn"] = with_parameters(msg["name"], distribution, lambda name, value: self.change(msg, name, value))


class _WrappedProgram:
    """A program of a `WrappedModel` with the signature of another program, which names the batch fields that it takes.

    Args:
        owner: the latent model.
        name: ``model`` or ``guide``; the owner's method ``run_model`` or ``run_guide`` is run.
        signature: the signature of the program.
    """

    __pvae_registered__ = True

    def __init__(self, owner: LatentModel, name: str, signature: inspect.Signature) -> None:
        self.__self__, self.__name__, self.__signature__ = owner, name, signature

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with Registration(self.__self__):
            return getattr(self.__self__, f"run_{self.__name__}")(*args, **kwargs)


class WrappedModel(LatentModel):
    """A latent model with the model of an inner latent model; subclasses define the guide in ``run_guide``.

    Args:
        latent_model: the inner latent model, which must be a module.
        extra_fields: batch fields that the guide takes besides those of the inner programs.

    Raises:
        InputError: if the inner latent model is not a module.
    """

    inner: Any

    def __init__(self, latent_model: Any, extra_fields: Iterable[str] = ()) -> None:
        super().__init__()
        if not isinstance(latent_model, nn.Module):
            raise InputError(
                f"{type(self).__name__} needs a latent model that is a module; got {type(latent_model).__name__}. Make "
                "one of two functions with pvae.pair."
            )
        self.inner = latent_model
        self.fields = _field_mapping(latent_model, extra_fields)
        self.optional_fields = traits_of(latent_model).optional_fields
        self._programs = {
            "model": _WrappedProgram(self, "model", signature_of(latent_model.model)),
            "guide": _WrappedProgram(self, "guide", self._guide_signature(extra_fields)),
        }

    def __getattr__(self, name: str) -> Any:
        if name in ("model", "guide"):
            return self.__dict__["_programs"][name]
        return super().__getattr__(name)

    def _guide_signature(self, extra_fields: Iterable[str]) -> inspect.Signature:
        """Return the guide's parameters, followed by other parameters of the model and extra ones as keywords."""
        model, guide = signature_of(self.inner.model), signature_of(self.inner.guide)
        if all(parameter.kind in _OPEN_KINDS for parameter in guide.parameters.values()):
            guide = model  # this guide takes the arguments of its model
        keywords = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in list(model.parameters.values())[1:]
            if parameter.name not in guide.parameters and parameter.kind not in _OPEN_KINDS
        ]
        keywords += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in extra_fields]
        parameters = list(guide.parameters.values())
        end = len(parameters)
        if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
            end -= 1  # ``**kwargs`` must remain the last parameter
        return guide.replace(parameters=parameters[:end] + keywords + parameters[end:])

    def arguments_by_name(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the guide by name.

        Args:
            args: the positional arguments of the guide.
            kwargs: the keyword arguments of the guide.
        """
        return dict(self.guide.__signature__.bind(*args, **kwargs).arguments)

    def arguments_for(self, program: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that a program of the inner latent model takes, by name.

        Args:
            program: the model or the guide of the inner latent model. Its first parameter gets the first argument of
                the guide if there is no argument of its name.
            arguments: the arguments of the guide by name.
        """
        names = list(signature_of(program).parameters)
        values = dict(arguments)
        if names and names[0] not in values and values:
            values[names[0]] = next(iter(values.values()))
        return {name: values[name] for name in names if name in values}

    given_to = renamed_method("given_to", arguments_by_name)

    def own(self, program: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return `arguments_for`; this old name gives a warning."""
        warnings.warn("own is now called arguments_for.", DeprecationWarning, stacklevel=2)
        return self.arguments_for(program, given)

    def run_model(self, *args: Any, **kwargs: Any) -> Any:
        """Run the inner model."""
        return self.inner.model(*args, **kwargs)

    def theta(self) -> list[nn.Parameter]:
        """Return the theta of the inner latent model.

        Raises:
            InputError: if the inner latent model does not declare it.
        """
        return declared(self.inner, "theta")

    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Initialise the inner latent model from the training data."""
        initialise_inner = traits_of(self.inner).initialise_from
        if initialise_inner is not None:
            initialise_inner(batch)

    def check_data(self, batch: Mapping[str, Tensor]) -> None:
        """Check data with the inner latent model."""
        check_inner = traits_of(self.inner).check_data
        if check_inner is not None:
            check_inner(batch)


def declared(latent_model: nn.Module, group: str) -> list[nn.Parameter]:
    """Return a group of parameters that a latent model declares.

    Args:
        latent_model: the latent model.
        group: ``theta`` or ``phi``.

    Raises:
        InputError: if the latent model does not declare the group.
    """
    parameters = declared_group([latent_model], group)
    if parameters is None:
        raise InputError(
            f"This model needs the parameter groups of its inner model, but {type(latent_model).__name__} declares no "
            f"{group}(). Declare "
            "theta() and phi()."
        )
    return parameters


def _field_mapping(latent_model: Any, extra_fields: Iterable[str]) -> dict[str, str] | None:
    """Return the ``fields`` of a latent model as a mapping from parameter to field, with extra fields.

    None without extra fields.
    """
    fields = traits_of(latent_model).fields
    if fields is None:
        return None
    mapping: dict[str, str] = {}
    if isinstance(fields, Mapping):
        mapping |= fields
    else:
        for program in (latent_model.model, latent_model.guide):
            mapping |= dict(zip(signature_of(program).parameters, fields, strict=False))
    return mapping | {name: name for name in extra_fields}
