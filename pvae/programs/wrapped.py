"""A latent model around another: its model as it is, its guide with other parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.programs.base import LatentModel
from pvae.programs.binding import signature_of
from pvae.programs.distribution_parameters import rebuilt
from pvae.programs.registration import Registration
from pvae.programs.sites import Site

__all__ = ["Around", "Changed", "declared"]

#: for a site, a parameter's name and its unconstrained value, the value to be used
Change = Callable[[Site, str, Tensor], Tensor]
_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Changed(Messenger):
    """Runs a guide whose latent sites have other parameters than the program gives them."""

    def __init__(self, change: Change, density: Callable[[Site], Any] = lambda site: site["fn"]) -> None:
        super().__init__()
        self.change, self.density = change, density

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["infer"].get("_deterministic") or type(msg["fn"]).__name__ == "_Subsample":
            return
        msg["fn"] = rebuilt(msg["name"], self.density(msg), lambda name, value: self.change(msg, name, value))


class _Method:
    """A program of a `LatentModel` with the signature of another: which fields it gets is read off that."""

    __pvae_registered__ = True

    def __init__(self, owner: LatentModel, name: str, signature: inspect.Signature) -> None:
        self.__self__, self.__name__, self.__signature__ = owner, name, signature

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with Registration(self.__self__):
            return getattr(self.__self__, f"run_{self.__name__}")(*args, **kwargs)


class Around(LatentModel):
    """A latent model with the programs of another, the guide changed."""

    inner: Any

    def __init__(self, latent_model: Any, extra: Iterable[str] = ()) -> None:
        super().__init__()
        if not isinstance(latent_model, nn.Module):
            raise InputError(
                f"{type(self).__name__} needs a latent model that is a module; got {type(latent_model).__name__}. Make "
                "one of two functions with pvae.pair."
            )
        self.inner = latent_model
        self.fields = _fields(latent_model, extra)
        model = signature_of(latent_model.model)
        self._methods = {
            "model": _Method(self, "model", model),
            "guide": _Method(self, "guide", self._signature(extra)),
        }

    def __getattr__(self, name: str) -> Any:
        if name in ("model", "guide"):
            return self.__dict__["_methods"][name]
        return super().__getattr__(name)

    def _signature(self, extra: Iterable[str]) -> inspect.Signature:
        """The guide's parameters and, by keyword, those that the model has besides, and `extra` ones."""
        model, guide = signature_of(self.inner.model), signature_of(self.inner.guide)
        if all(each.kind in _OPEN for each in guide.parameters.values()):
            guide = model  # a guide that follows its model's arguments
        named = list(guide.parameters.values())
        more = [each for each in list(model.parameters.values())[1:] if each.name not in guide.parameters]
        added = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in more if each.kind not in _OPEN]
        added += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in extra]
        place = next((i for i, each in enumerate(named) if each.kind is inspect.Parameter.VAR_KEYWORD), len(named))
        return guide.replace(parameters=named[:place] + added + named[place:])

    def own(self, program: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """What a program of the inner model takes of the guide's arguments, by name; its first takes the first."""
        names = list(signature_of(program).parameters)
        values = dict(given)
        if names and names[0] not in values and values:
            values[names[0]] = next(iter(values.values()))
        return {name: values[name] for name in names if name in values}

    def given_to(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The guide's arguments by name."""
        return dict(self.guide.__signature__.bind(*args, **kwargs).arguments)

    def run_model(self, *args: Any, **kwargs: Any) -> Any:
        """Run the inner model."""
        return self.inner.model(*args, **kwargs)

    def theta(self) -> list[nn.Parameter]:
        """Return the inner model's, where it declares them."""
        return declared(self.inner, "theta")

    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Let the inner model set what depends on the data."""
        start = getattr(self.inner, "initialise_from", None)
        if start is not None:
            start(batch)


def declared(inner: nn.Module, group: str) -> list[nn.Parameter]:
    """Return a group of parameters as a latent model declares it.

    Raises:
        InputError: if it does not.
    """
    method = getattr(inner, group, None)
    if not callable(method):
        raise InputError(f"{type(inner).__name__} declares no {group}(): declare theta() and phi().")
    return list(method())


def _fields(latent_model: Any, extra: Iterable[str]) -> dict[str, str] | None:
    """The inner model's own ``fields`` as a mapping from parameter to field."""
    fields = getattr(latent_model, "fields", None)
    if fields is None:
        return None
    named = dict(fields) if isinstance(fields, Mapping) else {}
    if not isinstance(fields, Mapping):
        for program in (latent_model.model, latent_model.guide):
            named |= dict(zip(signature_of(program).parameters, fields, strict=False))
    return named | {name: name for name in extra}
