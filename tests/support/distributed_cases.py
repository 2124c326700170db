"""Trainings that three processes run, and one process after them: ``python distributed_cases.py FOLDER``.

The processes are forks of one that has imported all that a training imports, which takes longer than the trainings.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import pvae
from pvae.cli import cli
from pvae.objectives import ScoreFunction
from pvae.train.distributed.constant_draws import ConstantDraws

DATA = 31
X = torch.randn(DATA, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
SPLITS = pvae.load_data({"x": X}, validation=0.0, test=0.0)
#: batches of 6 data, and the last one of each epoch has 1: some processes have no data there
OPTIONS: dict[str, Any] = {"batch_size": 6, "precision": "float64", "progress": False, "learning_rate": 1e-2}


class SameDraws(ConstantDraws):
    """Draws are constants, so that they do not depend on the number of processes; the order of data is random."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "randperm":
            return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)


class Gaussian(pvae.LatentModel):
    """A VAE of Gaussians; with `layer` in the encoder."""

    def __init__(self, layer: Callable[[], nn.Module] = nn.Identity) -> None:
        super().__init__()
        torch.manual_seed(1 if not torch.distributed.is_initialized() else 1 + torch.distributed.get_rank())
        self.encoder = nn.Sequential(nn.Linear(4, 5), layer(), nn.Tanh(), nn.Linear(5, 4))
        self.decoder = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 4))
        self.seen: list[Tensor] = []
        self.drawn: list[Tensor] = []

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Recording(Gaussian):
    """Records its data and draws."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            self.seen.append(x.clone())
            self.drawn.append(torch.rand(len(x)))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


class Global(Gaussian):
    """Has a latent that all data share, and no scale that makes a batch represent all data."""

    def model(self, x: Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z) + shift, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("shift", dist.Normal(self.encoder[0].bias.sum(), 1.0))
        super().guide(x)


class Failing(Gaussian):
    """Fails in one process at one step: raises an error, ends the process, or gets SIGTERM."""

    def __init__(self, rank: int, how: str) -> None:
        super().__init__()
        self.rank, self.how, self.runs = rank, how, 0

    def model(self, x: Tensor) -> None:
        if torch.is_grad_enabled() and torch.distributed.get_rank() == self.rank:
            self.runs += 1
            if self.runs > 12:
                if self.how == "end":
                    os._exit(9)
                if self.how == "signal":
                    os.kill(os.getpid(), signal.SIGTERM)
                    return super().model(x)
                raise ValueError("the planted error")
        return super().model(x)


def trained(objective: Any = "elbo", steps: int = 12, model: Any = None, **options: Any) -> dict[str, list[float]]:
    """Train with constant draws; return the parameters and the losses of the epochs."""
    latent_model = Gaussian() if model is None else model
    settings = {**OPTIONS, "step": "eager", "epochs": 99, "max_steps": steps, **options}
    with SameDraws(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = pvae.fit(latent_model, SPLITS, objective=objective, **settings)
    values = torch.cat([tensor.detach().double().flatten() for tensor in latent_model.state_dict().values()])
    return {"tensors": values.tolist(), "losses": [record["loss"] for record in run.history]}


def _stop(record: Any, model: Any) -> bool:
    """Change a parameter, and end the training after one epoch."""
    with torch.no_grad():
        model.decoder[0].bias.add_(1.0)
    return record["epoch"] == 1


EXACT: dict[str, Callable[[], dict[str, list[float]]]] = {
    "elbo": trained,
    "iwae": lambda: trained("iwae:particles=3"),
    "score function": lambda: trained(ScoreFunction(baseline="decaying", gradients={"z": "score"})),
    "constrained": lambda: trained("geco:target=-4"),
    "wake-sleep": lambda: trained("rws"),
    "critic": lambda: trained("gan", steps=7),
    "callback": lambda: trained(callbacks=[_stop], optimiser="sgd:momentum=0.9", clip=0.1),
}


def graph_of_autoencoder() -> dict[str, list[float]]:
    """Train a model without draws as a graph, from the tensors of process 0."""
    torch.manual_seed(1 if not torch.distributed.is_initialized() else 1 + torch.distributed.get_rank())
    model = pvae.models.Autoencoder((4,), latent=2, hidden=(5,), likelihood="gaussian")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = pvae.fit(model, SPLITS, epochs=99, max_steps=50, **{**OPTIONS, "step": "graph"})
    tensors = torch.cat([tensor.detach().flatten() for tensor in model.state_dict().values()])
    assert run.step == "graph"
    return {"tensors": tensors.tolist(), "losses": [record["loss"] for record in run.history]}


def error_of(**options: Any) -> str:
    """Return the error of a training that is refused."""
    model = options.pop("model", None) or Gaussian()
    data = options.pop("data", SPLITS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pvae.fit(model, data, **{**OPTIONS, "epochs": 2, "step": "eager", **options})
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def refusals() -> dict[str, str]:
    """Return the errors of trainings that several processes would not do as one does."""
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=6)
    other = pvae.load_data({"x": X + torch.distributed.get_rank()}, validation=0.0, test=0.0)
    even = pvae.load_data({"x": X[:30]}, validation=0.0, test=0.0)
    return {
        "mmd": error_of(objective="info-mmd", data=even),
        "total correlation": error_of(objective="total-correlation:data_size=30", data=even),
        "factor-vae": error_of(objective="factor-vae:hidden=4", data=even),
        "global": error_of(model=Global()),
        "max_seconds": error_of(max_seconds=1.0),
        "rollback": error_of(on_divergence="rollback"),
        "batch": error_of(batch_size=1),
        "loader": error_of(data=pvae.load_data(loader)),
        "other data": error_of(data=other),
        "batch norm of one datum": error_of(model=Gaussian(lambda: nn.BatchNorm1d(5)), data=even, batch_size=4),
        "divergence": error_of(learning_rate=1e200, optimiser="sgd"),
    }


def recorded(seed: int = 0) -> dict[str, Any]:
    """Return the data and the draws of the first steps of an eager training in one epoch."""
    model = Recording()
    pvae.fit(model, SPLITS, epochs=1, seed=seed, **{**OPTIONS, "step": "eager"})
    return {"x": [x.tolist() for x in model.seen[-6:]], "noise": [noise.tolist() for noise in model.drawn[-6:]]}


def resumed(folder: Path) -> dict[str, Any]:
    """Return whether a training that was stopped and resumed equals one that was not, in every bit."""

    def tensors(name: str, **options: Any) -> list[Tensor]:
        model = Gaussian()
        pvae.fit(model, SPLITS, epochs=1, out=folder / name, **{**OPTIONS, "step": "eager", **options})
        return [tensor.clone() for tensor in model.state_dict().values()]

    whole = tensors("whole")
    tensors("stopped", max_steps=4)
    again = tensors("stopped", resume=True)
    return {"equal": all(torch.equal(a, b) for a, b in zip(whole, again, strict=True)), "sum": float(whole[0].sum())}


def batch_norm() -> dict[str, Any]:
    """Return the running averages after one step of all data, and what is said about them."""
    model = Gaussian(lambda: nn.BatchNorm1d(5))
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        trained(model=model, steps=1, batch_size=DATA, progress=None)
    return {"mean": model.encoder[1].running_mean.tolist(), "said": said.getvalue()}


def command(folder: Path) -> dict[str, Any]:
    """Run ``pvae train`` as torchrun would."""
    settings = ["--data", "digits", "--latent", "2", "--hidden", "4", "--max-steps", "3", "--json"]
    done = CliRunner().invoke(cli, ["train", "vae", *settings, "--out", str(folder / "run")])
    return {"code": done.exit_code, "out": done.stdout, "err": done.stderr}


def run_cases(rank: int, folder: Path) -> None:
    """Run all cases: in processes 0 to 2, then in processes 0 and 1, and the failures at last."""
    for count in (3, 2):
        if rank >= count:
            return
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "WORLD_SIZE": str(count)}
        found: dict[str, Any] = {}

        def join(name: str, count: int = count) -> None:
            meeting = f"file://{folder}/{name}{count}"
            torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)

        join("cases")
        for name in EXACT if count == 3 else ("iwae", "callback"):
            found[name] = EXACT[name]()
        found["graph"] = graph_of_autoencoder()
        if count == 3:
            found["batch norm"] = batch_norm()
            found["refusals"] = refusals()
        found["changed count"] = trained(
            out=folder / "changed", resume=True, epochs=2 if count == 3 else 4, max_steps=None
        )
        if count == 2:
            found["recorded"] = recorded()
            found["resumed"] = resumed(folder)
            found["error"] = error_of(model=Failing(1, "raise"))
            found["signal"] = error_of(model=Failing(1, "signal"), out=folder / f"signal{rank}")
        torch.distributed.destroy_process_group()
        (folder / f"{count}.{rank}.json").write_text(json.dumps(found))
    os.environ["MASTER_PORT"] = (folder / "port").read_text()
    found = {"command": command(folder)}
    join("failures", 2)
    begun = time.monotonic()
    (folder / f"end.{rank}.json").write_text(json.dumps(found))
    found["death"] = error_of(model=Failing(1, "end"))
    found["seconds"] = time.monotonic() - begun
    (folder / f"end.{rank}.json").write_text(json.dumps(found))
    os._exit(0)  # the group cannot be left in order without the process that has ended


__all__ = ["EXACT", "batch_norm", "graph_of_autoencoder", "recorded", "trained"]

if __name__ == "__main__":
    torch.set_num_threads(1)
    import torch._dynamo  # the first optimiser of a process imports it

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run_cases, args=(rank, Path(sys.argv[1]))) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print(json.dumps([process.exitcode for process in processes]))
