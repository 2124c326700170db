"""The click types of options: a setting of any type, a learning rate, and comma-separated lists."""

from __future__ import annotations

from typing import Any

import click

from pvae.names import value as parse_value

__all__ = ["LearningRateType", "SettingType", "parse_whole_numbers", "split_list"]


class SettingType(click.ParamType):
    """A value whose text decides its type: number, true, false, none, a comma-separated list, or a word."""

    name = "value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value of a text; a list from a config file becomes a tuple."""
        if isinstance(value, list):
            return tuple(value)
        return parse_value(value) if isinstance(value, str) else value


class LearningRateType(click.ParamType):
    """A number, or one for each parameter group: ``theta=1e-3,phi=3e-4``; a config file may have a table."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a number, or a mapping from group to number."""
        if isinstance(value, dict):
            return {group: self._number(rate) for group, rate in value.items()}
        if isinstance(value, str) and "=" in value:
            pairs = [part.partition("=") for part in split_list(value)]
            rates = {group.strip(): self._number(rate) for group, _, rate in pairs}
            if len(rates) < len(pairs):
                self.fail(f"each group needs one learning rate; {value!r} names a group twice.")
            return rates
        return self._number(value)

    def _number(self, value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError):
            self.fail(f"needs a number, or one for each parameter group as theta=1e-3,phi=3e-4; got {value!r}.")


def split_list(text: str) -> list[str]:
    """Return the parts of a comma-separated list, without empty ones.

    >>> split_list("elbo, iwae:particles=8,")
    ['elbo', 'iwae:particles=8']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_whole_numbers(text: str) -> list[int]:
    """Return the whole numbers of a comma-separated list; an empty list if a part is not a whole number.

    >>> parse_whole_numbers("1,4,16"), parse_whole_numbers("1,x")
    ([1, 4, 16], [])
    """
    try:
        return [int(part) for part in split_list(text)]
    except ValueError:
        return []
