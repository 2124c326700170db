"""Efficiency of a training in several processes: a step of one process beside a step of several, on equal shares.

Each process has one thread, and a batch of 512 data of its own; the network is 784-400-20, in float32, with Adam. In
rounds, process 0 first takes steps alone, then all processes take steps at the same time, each without the others, and
then together. The efficiency is the time of a step alone divided by the time of a step together. The table also shows
the two causes: what the processes cost each other without an exchange, because they share the memory of the machine,
and what the exchange of the gradients costs. It shows the median over the rounds with its quartiles, by the CPU time of
process 0, which leaves out the wait for the other processes, and by the clock, which on a busy machine measures the
other programs too.

    python benchmarks/scaling.py [--processes 2] [--batch 512] [--rounds 15] [--steps 20]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from environment import restart_without_slowing_variables
from timing import quartiles
from torch import distributed

import pvae
from pvae.models import bind, scope
from pvae.objectives import adapt, make_objective
from pvae.products import ProductChoices
from pvae.train.computation import Computation
from pvae.train.distributed.gradient_reduction import GradientReduction
from pvae.train.distributed.training_group import TrainingGroup
from pvae.train.optimisers import make_optimiser
from pvae.train.parameters import Parameters
from pvae.train.signals import Interrupts
from pvae.train.step import Stepper


def make_stepper(model: pvae.VAE, batch: pvae.Batch, reduction: GradientReduction | None) -> Stepper:
    """Return the step of `pvae.fit` as a graph."""
    objective = adapt(make_objective("elbo"))
    programs = bind(model, batch)
    parameters = Parameters(model, programs, objective, batch)
    optimiser = make_optimiser("adam", parameters.groups(), 1e-3)
    computation = Computation(programs, objective, parameters)
    return Stepper(computation, optimiser, graph=True, products=ProductChoices("auto"), reduction=reduction)


def measured(step: Callable[[], object], steps: int) -> tuple[float, float]:
    """Return the CPU time and the time of one step, in seconds."""
    cpu, clock = time.process_time(), time.perf_counter()
    for _ in range(steps):
        step()
    return (time.process_time() - cpu) / steps, (time.perf_counter() - clock) / steps


def run_process(rank: int, folder: str, options: argparse.Namespace) -> None:
    """Measure in one process; process 0 prints the table."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=options.processes)
    group = TrainingGroup()
    reduction = GradientReduction(group, [], Interrupts())
    reduction.own_rows = options.batch
    batch = pvae.Batch(x=torch.rand(options.batch, 784).round())
    model = pvae.VAE(data_shape=(784,), hidden=(400,), latent=20, activation="relu")
    with scope(model):
        alone, together = make_stepper(model, batch, None), make_stepper(model, batch, reduction)
        rounds: list[list[tuple[float, float]]] = []
        for number in range(options.rounds + 1):
            distributed.barrier()
            one = measured(lambda: alone(batch), options.steps) if rank == 0 else (0.0, 0.0)
            distributed.barrier()
            apart = measured(lambda: alone(batch), options.steps)
            distributed.barrier()
            several = measured(lambda: together(batch), options.steps)
            if number:  # the first round traces the graphs
                rounds.append([one, apart, several])
        distributed.barrier()
    if rank == 0:
        print(f"{options.processes} processes, {options.batch} data each; load {os.getloadavg()[0]:.1f}")
        print_ratios(rounds)
    distributed.destroy_process_group()


def print_ratios(rounds: list[list[tuple[float, float]]]) -> None:
    """Print the ratios of the times of a step: alone, at the same time without an exchange, and together."""
    for name, place in (("CPU time", 0), ("clock", 1)):
        alone, apart, together = ([steps[place] for steps in column] for column in zip(*rounds, strict=True))
        for label, over, under in (
            ("efficiency", alone, together),
            ("alone to at the same time", alone, apart),
            ("at the same time to together", apart, together),
        ):
            ratios = [first / second for first, second in zip(over, under, strict=True)]
            print(f"{name:8}  {label:28}  {quartiles(ratios)}")


def main() -> None:
    """Start the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("processes", 2), ("batch", 512), ("rounds", 15), ("steps", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--process", nargs=2, metavar=("RANK", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        run_process(int(options.process[0]), options.process[1], options)
        return
    restart_without_slowing_variables()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        commands = [
            [sys.executable, str(Path(__file__)), *sys.argv[1:], "--process", str(rank), folder]
            for rank in range(options.processes)
        ]
        processes = [subprocess.Popen(command, env=environment) for command in commands]
        sys.exit(max(process.wait() for process in processes))


if __name__ == "__main__":
    main()
