"""The example of a search by Optuna in the documentation; it is skipped where Optuna is not installed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import pvae

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "callbacks.md"


def test_the_search_of_the_page_finds_the_best_trial() -> None:
    optuna = pytest.importorskip("optuna", reason="optuna is not installed: pip install 'pvae[optuna]'")
    block = re.search(r"```python\n(import optuna\n.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {"pvae": pvae, "data": pvae.load_data("digits")}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    exec(block[1], names)
    trials = names["study"].trials
    finished = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert len(trials) == 4 and names["study"].best_value == max(trial.value for trial in finished)
    assert all(len(trial.intermediate_values) == 3 for trial in finished)
    pruned = [trial for trial in trials if trial.state == optuna.trial.TrialState.PRUNED]
    assert all(len(trial.intermediate_values) < 3 for trial in pruned)
