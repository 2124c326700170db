"""Imports without garbage collection, which is on again after them, also after an error."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvae.commands.quick_imports import import_quickly


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three modules: two that record whether garbage is collected, and one that fails."""
    for name in ("recorded_first", "recorded_second"):
        (tmp_path / f"{name}.py").write_text("import gc\nIS_COLLECTED = gc.isenabled()\n")
    (tmp_path / "recorded_failure.py").write_text("import recorded_first\nraise ValueError('no library')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    gc.unfreeze()
    yield
    for name in [name for name in sys.modules if name.startswith("recorded_")]:
        del sys.modules[name]
    gc.unfreeze()


def test_modules_are_imported_without_collection_and_left_out_of_later_ones() -> None:
    import_quickly("recorded_first", "recorded_second")
    assert [sys.modules[f"recorded_{name}"].IS_COLLECTED for name in ("first", "second")] == [False, False]
    assert gc.isenabled() and gc.get_freeze_count() > 0
    gc.unfreeze()
    import_quickly("recorded_first")  # it has been imported, and nothing is left out
    assert gc.get_freeze_count() == 0


def test_collection_stays_as_it_was_after_an_error_and_for_a_caller_without_it() -> None:
    with pytest.raises(ValueError, match="no library"):
        import_quickly("recorded_failure")
    assert gc.isenabled()
    gc.disable()
    try:
        import_quickly("recorded_second")
        assert not gc.isenabled()
    finally:
        gc.enable()
