"""Names and settings that people type are parsed and checked by one rule, with one form of message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import pvae
from pvae.data import load_data
from pvae.densities import part
from pvae.models.conjugate_prior import make_prior
from pvae.names import parse, parse_known, parse_setting, printable, require_known, require_settings, short_label, value
from pvae.networks import noise
from pvae.objectives import make_objective
from pvae.train.optimisers import make_optimiser, make_schedule

SIZES = {"mlp": ("hidden", "layers"), "conv": ("filters",)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3),
        (" 0.5 ", 0.5),
        ("1e-3", 1e-3),
        ("inf", float("inf")),
        ("True", True),
        ("none", None),
        ("4,5", (4, 5)),
        ("4,", (4,)),
        ("relu", "relu"),
        ("", ""),
    ],
)
def test_a_value_has_the_type_that_it_looks_like(text: str, expected: object) -> None:
    assert value(text) == expected and type(value(text)) is type(expected)


def test_a_text_is_split_into_its_name_and_its_settings() -> None:
    assert parse("renyi:alpha=0.5:warm-up=8") == ("renyi", {"alpha": 0.5, "warm_up": 8})
    assert parse(" elbo ") == ("elbo", {})
    assert parse_setting("a-b=1,2", "advice") == ("a_b", (1, 2))


@pytest.mark.parametrize("text", ["iwae:8", "iwae:=8", "iwae:a b=8", "iwae:particles"])
def test_a_badly_written_setting_is_one_line(text: str) -> None:
    with pytest.raises(pvae.InputError, match=f"Settings are written name:key=value in '{text}'; got "):
        parse(text)


def test_a_setting_that_comes_twice_is_refused() -> None:
    with pytest.raises(pvae.InputError, match="Setting 'a' is given twice in 'x:a=1:a=2'; keep one"):
        parse("x:a=1:a=2")


def test_known_names_and_settings_pass() -> None:
    assert parse_known("MLP:hidden=3", "network", SIZES, lambda keys: keys, spelling=str.lower) == (
        "mlp",
        {"hidden": 3},
    )
    require_known("network", "mlp", SIZES)
    require_settings("network 'mlp'", {"hidden": 3}, SIZES["mlp"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mpl", r"Unknown network 'mpl'; did you mean 'mlp'\? Known: conv, mlp, none\."),
        ("mlp:hiden=3", r"Unknown setting 'hiden' of network 'mlp'; did you mean 'hidden'\? Known: hidden, layers\."),
        ("conv:hidden=3", r"Unknown setting 'hidden' of network 'conv'\. Known: filters\."),
    ],
)
def test_an_unknown_name_or_setting_is_named_with_the_nearest(text: str, message: str) -> None:
    with pytest.raises(pvae.InputError, match=f"^{message}$"):
        parse_known(text, "network", SIZES, lambda keys: keys, further=["none"])


def test_a_name_that_is_no_text_is_unknown() -> None:
    with pytest.raises(pvae.InputError, match="Unknown activation '3'"):
        require_known("activation", 3, ["tanh"])


#: what is chosen by a text -> the call
CHOICES: dict[str, Callable[[str], Any]] = {
    "objective 'iwae'": make_objective,
    "mask 'block'": lambda text: load_data(torch.zeros(9, 4, 4), mask=text, validation=0, test=0),
    "noise 'gaussian'": noise,
    "prior 'mixture'": lambda text: part("prior", text, 3),
    "prior 'conjugate'": lambda text: make_prior(text, 2, 2, 9),
    "likelihood 'gaussian'": lambda text: part("likelihood", text, 5, (6,)),
    "optimiser 'Adam'": lambda text: make_optimiser(text, {"all": []}, 1e-3),
    "schedule 'stepLR'": lambda text: make_schedule(text, None),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_by_text_refuses_an_unknown_setting_in_one_form(choice: str) -> None:
    name = choice.split("'")[1]
    with pytest.raises(pvae.InputError, match=f"^Unknown setting 'colour' of {choice}"):
        CHOICES[choice](f"{name}:colour=red")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ü and 漢", "plain, ü and 漢"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\u202eb", r"a\u202eb"),
        ("tab\there\nline", "tab\\there\nline"),
        ("\ud800", r"\ud800"),
    ],
)
def test_a_sign_that_is_not_printable_is_written_out(text, shown):
    assert printable(text) == shown


def test_a_long_name_loses_its_middle_and_a_short_one_nothing():
    assert short_label("x" * 60) == "x" * 60
    long = short_label("a" * 100 + "b" * 100)
    assert len(long) == 60 and long.startswith("aaa") and long.endswith("bbb") and "…" in long
    assert short_label("two\nlines") == "two lines"
