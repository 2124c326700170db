"""Every file from outside, in every place, is refused in one line, in 2 s of work and with little memory."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hostile_files as hostile
import numpy as np
import pytest
import torch
from hostile_files import Reaction, reaction_to

import pvae
from pvae.data.file_limits import require_content
from pvae.em import GaussianMixture
from pvae.errors import InputError
from pvae.memory import MemoryLimit
from pvae.outside_files import read_json, read_toml, walk_files

Make = Callable[[Path], None]
EVERYWHERE: tuple[Make, ...] = (hostile.fifo, hostile.device, hostile.folder, hostile.sparse, hostile.empty)
TEXTS: tuple[Make, ...] = (
    hostile.deep_lists, hostile.deep_tables, hostile.long_integer, hostile.many_values, hostile.not_utf8,
)  # fmt: skip
TOML: tuple[Make, ...] = (*TEXTS, hostile.dotted_keys, hostile.quoted_dotted_keys, hostile.many_tables)
TENSORS: tuple[Make, ...] = (hostile.safetensors_claim, hostile.safetensors_large_tensor)
DATA: dict[str, tuple[Make, ...]] = {
    ".csv": (hostile.wide_table, hostile.open_quote),
    ".csv.gz": (hostile.gzip_bomb,),
    ".npy": (hostile.npy_claim, hostile.npy_negative),
    ".npz": (hostile.npz_claim, hostile.npz_bomb, hostile.npz_overlap),
    ".mat": (hostile.mat_bomb,),
    ".h5": (hostile.hdf5_claim, hostile.hdf5_elsewhere),
    ".h5ad": (),
    ".parquet": (hostile.parquet_claim, hostile.parquet_repeat),
    "-ubyte": (hostile.idx_claim,),
    "-ubyte.gz": (hostile.gzip_bomb,),
}
DATA_CASES = [(suffix, make) for suffix, makers in DATA.items() for make in (*EVERYWHERE, *makers)]
PICTURES = (
    hostile.fifo,
    hostile.device,
    hostile.sparse,
    hostile.empty,
    hostile.png_bomb,
    hostile.png_large,
    hostile.png_claim,
)
PLACES: dict[str, tuple[Make, ...]] = {
    "config.toml": TOML,
    "metrics.jsonl": (),
    "last/state.json": TEXTS,
    "last/parameters.safetensors": TENSORS,
    "last/training.safetensors": TENSORS,
}
FOLDER_CASES = [
    (place, make)
    for place, makers in PLACES.items()
    for make in (*EVERYWHERE, *makers)
    if (place, make) != ("metrics.jsonl", hostile.sparse)
]


def _require_refusal(reaction: Reaction, make: Make | None = None) -> None:
    assert reaction.error == "InputError", reaction
    if make in (hostile.fifo, hostile.device, hostile.folder):
        assert "needs to be a regular file" in reaction.text, reaction
    assert "\n" not in reaction.text and len(reaction.text) < 600, reaction
    assert reaction.seconds < 2 and reaction.megabytes < 300, reaction


def _name(value: object) -> str:
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(("suffix", "make"), DATA_CASES, ids=_name)
def test_a_file_of_data_is_refused(tmp_path: Path, suffix: str, make: Make) -> None:
    path = tmp_path / f"data{suffix}"
    if "hdf5" in make.__name__:
        pytest.importorskip("h5py")
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    make(path)
    _require_refusal(reaction_to(lambda: pvae.load_data(str(path))), make)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (RecursionError("too deep"), r"is not a file of AnnData, or is damaged \(too deep\)"),
        (SimpleNamespace(X=SimpleNamespace(shape=(200_000, 20_000), dtype=np.dtype("f4"))), "over 200 times as much"),
    ],
)
def test_what_the_package_of_anndata_reads_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, said: str
) -> None:
    def read_h5ad(_: Path) -> Any:
        if isinstance(content, Exception):
            raise content
        return content

    h5py = pytest.importorskip("h5py")
    monkeypatch.setitem(sys.modules, "anndata", SimpleNamespace(read_h5ad=read_h5ad))
    with h5py.File(tmp_path / "x.h5ad", "w") as file:
        file["X"] = np.zeros((2, 2))
    with pytest.raises(InputError, match=said):
        pvae.load_data(str(tmp_path / "x.h5ad"))


@pytest.mark.parametrize("make", [*PICTURES, hostile.eps], ids=_name)
def test_a_picture_is_refused(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "a.png")
    _require_refusal(reaction_to(lambda: pvae.load_data(str(tmp_path))), make)


@pytest.mark.parametrize("make", [*EVERYWHERE, *TOML], ids=_name)
def test_a_toml_file_is_refused(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "x.toml"
    make(path)
    if make is not hostile.empty:
        _require_refusal(reaction_to(lambda: read_toml(path)), make)


@pytest.mark.parametrize("make", [*EVERYWHERE, *TEXTS], ids=_name)
def test_a_json_file_is_refused(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "x.json"
    make(path)
    _require_refusal(reaction_to(lambda: read_json(path, 2**25)), make)


@pytest.mark.parametrize(("read", "name"), [(read_toml, "x.toml"), (lambda path: read_json(path, 10**6), "x.json")])
def test_a_depth_that_the_parsers_accept_and_other_code_may_not_is_refused(
    tmp_path: Path, read: Callable[[Path], Any], name: str
) -> None:
    path = tmp_path / name
    for depth in (39, 41):
        hostile.deep_lists(path, depth)
        if depth == 39:
            assert read(path)
            continue
        with pytest.raises(InputError, match="more than 40 lists and tables inside each other"):
            read(path)


def test_folders_that_are_nested_deeply_are_walked_and_links_to_folders_are_not(tmp_path: Path) -> None:
    deepest = tmp_path.joinpath(*"n" * 1500)
    folder = tmp_path
    while folder != deepest:
        folder = folder / "n"
        folder.mkdir()
    (folder / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert sorted(walk_files(tmp_path)) == [tmp_path / "loop", folder / "file"]
    (folder / "file").unlink()
    while folder != tmp_path:  # pytest would not remove them
        folder.rmdir()
        folder = folder.parent


@pytest.mark.parametrize("make", EVERYWHERE[:4], ids=_name)
def test_a_file_of_a_model_is_refused(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "model.py"
    make(path)
    _require_refusal(reaction_to(lambda: pvae.ModelSpec(f"{path}:Model").check()))


@pytest.mark.parametrize("make", [*EVERYWHERE, *TENSORS], ids=_name)
def test_a_file_of_a_mixture_is_refused(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "mixture.safetensors"
    make(path)
    _require_refusal(reaction_to(lambda: GaussianMixture.load(path)), make)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0)).round()
    splits = pvae.load_data(x, validation=0, test=0)
    pvae.fit(
        pvae.ModelSpec("vae", {"latent": 2, "hidden": (5,)}), splits, epochs=1, out=folder, step="eager", progress=False
    )
    shutil.rmtree(folder / "last.previous")
    return folder


@pytest.fixture
def replaced(run_folder: Path) -> Iterator[Callable[[str, Make], None]]:
    """Replace one file of the run; put it back after the test."""
    moved: list[Path] = []

    def replace(place: str, make: Make) -> None:
        path = run_folder / place
        path.rename(run_folder.with_name("moved"))
        moved.append(path)
        make(path)

    yield replace
    for path in moved:
        path.rmdir() if path.is_dir() else path.unlink()
        run_folder.with_name("moved").rename(path)


@pytest.mark.parametrize(("place", "make"), FOLDER_CASES, ids=_name)
def test_a_file_of_a_run_is_refused(
    run_folder: Path, replaced: Callable[[str, Make], None], place: str, make: Make
) -> None:
    replaced(place, make)
    _require_refusal(reaction_to(lambda: pvae.open_run(run_folder, checkpoint="last")), make)


def test_a_model_of_a_run_that_is_larger_than_its_checkpoint_is_refused(run_folder: Path) -> None:
    from pvae.train.recorded_model import build_recorded_model
    from pvae.train.run import read_config

    config = read_config(run_folder)
    config["model"]["settings"] |= {"hidden": [10**4, 10**4]}
    saved = pvae.open_run(run_folder).model.state_dict()
    reaction = reaction_to(lambda: build_recorded_model(run_folder, config, saved))
    _require_refusal(reaction)
    assert "its checkpoint has" in reaction.text


def test_a_model_that_needs_more_memory_than_is_free_is_refused() -> None:
    splits = pvae.load_data(np.zeros((20, 4)), validation=0, test=0)
    recipe = pvae.ModelSpec("vae", {"latent": 10**6, "hidden": (10**6,)})
    reaction = reaction_to(lambda: recipe.build(splits))
    _require_refusal(reaction)
    assert "8 TB" in reaction.text or "4 TB" in reaction.text


def test_a_limit_of_memory_counts_what_is_held_at_the_same_time() -> None:
    limit = MemoryLimit(1000.0, lambda needed: InputError(f"{needed:.0f} bytes"))
    with limit:
        for _ in range(5):  # each is freed before the next one is made
            torch.zeros(200)
        held = torch.randn(100, generator=torch.Generator().manual_seed(0))
        with pytest.raises(InputError, match="1004 bytes"):
            torch.empty(151)
        torch.empty(150)
    assert torch.equal(held, torch.randn(100, generator=torch.Generator().manual_seed(0)))


def test_compressed_content_may_be_200_times_as_long_as_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(600_000))
    require_content(path, 120_000_000)
    with pytest.raises(InputError, match="over 200 times as much"):
        require_content(path, 120_000_001)
    path.write_bytes(b"x")
    require_content(path, 100_000_000)
