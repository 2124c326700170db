"""Speed and memory of data: loaders beside data in memory, files in parts, tables beside pandas, `pvae em` on a file.

Speeds are ratios of times. The variants take turns in one process, round by round, and the table shows the median ratio
with its quartiles. The wall-clock time depends on the load of the machine. Two other times depend on it less: the CPU
time of the training process, which excludes that of the workers of a loader; and the wall-clock time without the time
in which the training process could run but had no core, as Linux counts it. The second one includes all waiting for
workers. Memory is the peak of the resident memory of a process of
its own, less that of the same process before it opens the file.

    python benchmarks/data.py [--parts loaders,files,tables,em] [--rounds 7] [--gigabytes 2]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from timing import quartiles
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import pvae
from pvae.data import minibatches
from pvae.memory import keep_freed_memory
from pvae.models import bind, scope
from pvae.train.computation import Computation
from pvae.train.optimisers import make_optimiser
from pvae.train.parameters import Parameters
from pvae.train.step import Stepper

BATCH, FEATURES, ROWS = 128, 784, 10_240
PARTS = ("loaders", "files", "tables", "em")

#: Measures the resident memory of a process in MB, by the files of Linux: forgets its peak, and returns it.
PEAK = """
def memory(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024
def start():
    open("/proc/self/clear_refs", "w").write("5")
    return memory("VmRSS")
def peak():
    return memory("VmHWM")
"""

#: Trains on a file for some steps, and prints the peak of its memory above that after a small training, in MB.
MEASURE_FIT = """
import sys, torch, pvae
from pvae.data.streams.stored_batch import StoredBatch
model = pvae.VAE((784,), hidden=(400,), latent=20, likelihood="gaussian")
small = torch.randn(1000, 784)
pvae.fit(model, pvae.load_data(small), epochs=1, batch_size=128, progress=False)
before = start()
data = pvae.load_data(sys.argv[1], resident=False, validation=1000, test=1000)
assert isinstance(data.train, StoredBatch)
model = pvae.VAE((784,), hidden=(400,), latent=20, likelihood="gaussian")
pvae.fit(model, data, epochs=1, batch_size=128, max_steps=int(sys.argv[2]), progress=False)
print(peak() - before)
"""

#: Fits a mixture to a file, and prints the peak of its memory above that after the imports, in MB.
MEASURE_EM = """
import contextlib, io, sys, torch, sklearn.cluster, pvae.commands.mixture_fits
from pvae.cli import cli
before = start()
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    cli.main(["em", "--data", sys.argv[1], "--components", "4", "--max-iter", "5", "--json"])
print(peak() - before)
"""


class Rows(Dataset):
    """Rows of a tensor, read one by one as a data set of PyTorch does."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, number: int) -> Tensor:
        return self.x[number]


def make_stepper(x: Tensor) -> Stepper:
    """Return the training step of a VAE on data of the size of MNIST."""
    torch.manual_seed(0)
    model = pvae.VAE((FEATURES,), hidden=(400,), latent=20, activation="relu", likelihood="gaussian")
    programs = bind(model, {"x": x[:BATCH]})
    objective = pvae.objectives.adapt(pvae.objectives.make_objective("elbo"))
    parameters = Parameters(model, programs, objective, {"x": x[:BATCH]})
    optimiser = make_optimiser("adam", parameters.groups(), 1e-3)
    return Stepper(Computation(programs, objective, parameters), optimiser, graph=True)


def seconds_of(run: Callable[[], object]) -> tuple[float, float, float]:
    """Return the wall-clock time of a call, that without waiting for a core, and the CPU time of this process in it."""
    start, cpu, queued = time.perf_counter(), time.process_time(), queued_seconds()
    run()
    wall = time.perf_counter() - start
    return wall, wall - (queued_seconds() - queued), time.process_time() - cpu


def queued_seconds() -> float:
    """Return how long this thread could run but had no core, as Linux counts it; 0 elsewhere."""
    file = Path("/proc/thread-self/schedstat")
    return int(file.read_text().split()[1]) * 1e-9 if file.exists() else 0.0


def measure_loaders(rounds: int, folder: Path) -> None:
    """Print the number of steps per second from each source, divided by that from data in memory."""
    x = torch.randn(ROWS, FEATURES)
    np.save(folder / "x.npy", x.numpy())
    whole = {"validation": 0, "test": 0}

    def loader(workers: int) -> DataLoader:
        return DataLoader(Rows(x), BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    sources: dict[str, pvae.Batch | DataLoader] = {
        "in memory": pvae.load_data(x, **whole).train,
        "DataLoader, 2 workers": pvae.load_data(loader(2)).train,
        "the same, by PyTorch alone": loader(2),
        "DataLoader, no workers": pvae.load_data(loader(0)).train,
        "no workers, PyTorch alone": loader(0),
        "data set": pvae.load_data(Rows(x), **whole).train,
        "npy file in parts": pvae.load_data(folder / "x.npy", resident=False, **whole).train,
    }
    stepper = make_stepper(x)
    with scope(stepper.computation.parameters.latent_model):
        times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sources}
        for epoch in range(rounds + 1):
            for name, train in sources.items():

                def run(train: pvae.Batch | DataLoader = train, epoch: int = epoch) -> None:
                    for batch in _batches(train, epoch):
                        stepper(batch)

                times[name].append(seconds_of(run))
    steps = ROWS // BATCH
    reference = times["in memory"][1:]  # the first round starts the workers and traces the step
    per_step = statistics.median(cpu for *_, cpu in reference) / steps * 1e3
    print(f"{steps} steps of {BATCH} x {FEATURES} in a round; {per_step:.2f} ms of CPU time a step in memory")
    print(f"{'':26} {'wall-clock time':24} {'without waiting for cores':26} CPU time of the training process")
    for name, seconds in times.items():
        pairs = list(zip(reference, seconds[1:], strict=True))
        wall, unqueued, cpu = ([one[each] / other[each] for one, other in pairs] for each in range(3))
        print(f"{name:26} {quartiles(wall):24} {quartiles(unqueued):26} {quartiles(cpu)}")


def _batches(train: pvae.Batch | DataLoader, epoch: int) -> Iterator[pvae.Batch]:
    """Return the batches of an epoch by pvae; of a loader by PyTorch alone, with no seeds, no checks, no restart."""
    if isinstance(train, DataLoader):
        return (pvae.Batch(x=x) for x in train)
    return minibatches(train, BATCH, seed=0, epoch=epoch)


def in_process(program: str, *arguments: str) -> float:
    """Return the number that a program prints last, from a process of its own."""
    output = subprocess.run(
        [sys.executable, "-c", PEAK + program, *arguments], check=True, capture_output=True, text=True
    )
    return float(output.stdout.split()[-1])


def write_rows(path: Path, rows: int, features: int, dtype: str = "float32") -> None:
    """Write a .npy file of normal draws in parts."""
    file = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(rows, features))
    generator = np.random.default_rng(0)
    for start in range(0, rows, 20_000):
        stop = min(start + 20_000, rows)
        file[start:stop] = generator.standard_normal((stop - start, features))
    file.flush()


def measure_files(gigabytes: float, folder: Path) -> None:
    """Print the peak memory of a training on a .npy file, and on a folder of .npz files of an eighth of its size."""
    rows = int(gigabytes * 1e9 / (4 * FEATURES))
    write_rows(folder / "large.npy", rows, FEATURES)
    size = (folder / "large.npy").stat().st_size / 1e6
    print(f"a .npy file of {size:.0f} MB: {in_process(MEASURE_FIT, str(folder / 'large.npy'), '200'):.0f} MB")
    (folder / "large.npy").unlink()
    (folder / "shards").mkdir()
    generator = np.random.default_rng(0)
    for number in range(8):
        x = generator.standard_normal((rows // 8, FEATURES), dtype=np.float32)
        np.savez(folder / "shards" / f"{number}.npz", x=x)
    peak = in_process(MEASURE_FIT, str(folder / "shards"), "200")
    print(f"8 .npz files of {size / 8:.0f} MB: {peak:.0f} MB, {peak - size / 8:.0f} MB above one file")


def measure_tables(rounds: int, folder: Path) -> None:
    """Print the CPU time to load a CSV file of 200,000 rows and 20 columns, divided by that of pandas.read_csv."""
    path = folder / "table.csv"
    values = np.random.default_rng(0).standard_normal((200_000, 20))
    pd.DataFrame(values, columns=[f"c{number}" for number in range(20)]).to_csv(path, index=False)
    ratios = []
    for _ in range(rounds):
        of_pandas = seconds_of(lambda: pd.read_csv(path))[-1]
        ratios.append(seconds_of(lambda: pvae.load_data(path))[-1] / of_pandas)
    print(f"CPU time of load_data divided by that of pandas.read_csv: {quartiles(ratios)}; the goal is at most 1.5")


def measure_em(folder: Path) -> None:
    """Print the peak memory of `pvae em` on .npy files of 250 MB, divided by the size of the file."""
    for dtype, rows in (("float64", 1_562_500), ("float32", 3_125_000)):
        path = folder / f"{dtype}.npy"
        write_rows(path, rows, 20, dtype)
        size = path.stat().st_size / 1024**2
        peak = in_process(MEASURE_EM, str(path))
        print(f"pvae em on {size:.0f} MB of {dtype}: {peak:.0f} MB, {peak / size:.2f} times the file; the goal is 2")
        path.unlink()


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    keep_freed_memory()  # as `pvae.fit` calls it
    print(f"pvae {pvae.__version__}, torch {torch.__version__}, {platform.machine()}")
    with tempfile.TemporaryDirectory() as name:
        for part in arguments.parts.split(","):
            folder = Path(name, part)
            folder.mkdir()
            print(f"\n{part}")
            if part == "loaders":
                measure_loaders(arguments.rounds, folder)
            elif part == "files":
                measure_files(arguments.gigabytes, folder)
            elif part == "tables":
                measure_tables(min(arguments.rounds, 5), folder)
            else:
                measure_em(folder)


if __name__ == "__main__":
    main()
