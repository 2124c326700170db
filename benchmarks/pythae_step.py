"""pythae's step of the network of `step.py`, in an environment of its own; `step.py --pythae` starts this script.

It reads a number of steps from a line, takes them, and prints the CPU seconds for each. It needs the packages pythae
and torch. The argument after the sizes chooses what is measured:

- ``trainer``: an epoch of so many batches by `BaseTrainer.train_step`, as pythae's trainer runs it, with its loader,
  its progress bar and its default Adam.
- ``batch``: the forward pass of the model and `BaseTrainer._optimizers_step` on the same batch each time, with fused
  Adam, without the loader.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
import time

import numpy as np
import torch
from pythae.data.datasets import BaseDataset, DatasetOutput
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn

BATCH = 128
#: Bytes of a block from which glibc learns to keep freed memory, as `pvae.memory.keep_freed_memory` frees one.
LEARNED_BYTES = 33_200_000


class Encoder(BaseEncoder):
    """A hidden layer with ReLU, then the mean and the log-variance of q(z given x).

    Args:
        features: the number of features of a datum.
        hidden: the units of the hidden layer.
        latent: the number of latent variables.
    """

    def __init__(self, features: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(features, hidden), nn.ReLU())
        self.embedding, self.log_variance = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

    def forward(self, x: Tensor) -> ModelOutput:
        """Return the mean and the log-variance, shapes (batch, latent)."""
        hidden = self.hidden(x)
        return ModelOutput(embedding=self.embedding(hidden), log_covariance=self.log_variance(hidden))


class Decoder(BaseDecoder):
    """A hidden layer with ReLU, then the probabilities of the features, because pythae's loss takes probabilities.

    Args:
        latent: the number of latent variables.
        hidden: the units of the hidden layer.
        features: the number of features of a datum.
    """

    def __init__(self, latent: int, hidden: int, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, features), nn.Sigmoid())

    def forward(self, z: Tensor) -> ModelOutput:
        """Return the probabilities, shape (batch, features)."""
        return ModelOutput(reconstruction=self.layers(z))


def make_model(features: int, hidden: int, latent: int, particles: int) -> VAE:
    """Return pythae's VAE, or its IWAE with several particles.

    Args:
        features: the number of features of a datum.
        hidden: the units of each hidden layer.
        latent: the number of latent variables.
        particles: the draws of z for each datum.
    """
    options = {"input_dim": (features,), "latent_dim": latent, "reconstruction_loss": "bce"}
    parts = {"encoder": Encoder(features, hidden, latent), "decoder": Decoder(latent, hidden, features)}
    if particles == 1:
        return VAE(VAEConfig(**options), **parts)
    return IWAE(IWAEConfig(number_samples=particles, **options), **parts)


def make_trainer(model: VAE, x: Tensor, optimizer_params: dict[str, bool] | None, folder: str) -> BaseTrainer:
    """Return a trainer that is ready for its first epoch.

    Args:
        model: the model.
        x: the training data, shape (data, features).
        optimizer_params: further arguments of Adam.
        folder: the folder of the trainer.
    """
    config = BaseTrainerConfig(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        optimizer_params=optimizer_params,
        no_cuda=True,
    )
    trainer = BaseTrainer(model, BaseDataset(x, torch.ones(len(x))), training_config=config)
    trainer.prepare_training()
    return trainer


def take_epoch(model: VAE, x: Tensor, steps: int, folder: str) -> float:
    """Return the CPU seconds of an epoch of the trainer after a first one, in which Adam makes its state.

    Args:
        model: the model.
        x: the data of one batch, shape (batch, features).
        steps: the batches of the epoch.
        folder: the folder of the trainer.
    """
    trainer = make_trainer(model, x.repeat(steps, 1), None, folder)
    trainer.train_step(1)
    begun = time.process_time()
    trainer.train_step(2)
    return time.process_time() - begun


def take_batches(trainer: BaseTrainer, batch: DatasetOutput, steps: int) -> float:
    """Return the CPU seconds of steps on one batch.

    Args:
        trainer: the trainer.
        batch: the batch, as the loader of the trainer returns it.
        steps: the number of steps.
    """
    begun = time.process_time()
    for _ in range(steps):
        trainer._optimizers_step(trainer.model(batch, epoch=1, dataset_size=BATCH, uses_ddp=False))
    return time.process_time() - begun


def main() -> None:
    """Answer each line with the CPU seconds of a step."""
    features, hidden, latent, particles = map(int, sys.argv[1:5])
    torch.set_num_threads(1)
    if "keep-memory" in sys.argv[6:]:
        np.empty(LEARNED_BYTES, dtype=np.uint8)
    logging.disable()
    x = torch.rand(BATCH, features).round()
    model = make_model(features, hidden, latent, particles)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stderr(io.StringIO()):
            one_batch = make_trainer(model, x, {"fused": True}, folder)
        batch = next(iter(one_batch.train_loader))
        take_batches(one_batch, batch, 5)
        for line in sys.stdin:
            steps = int(line)
            with contextlib.redirect_stderr(io.StringIO()):  # the progress bar is drawn, but not shown
                if sys.argv[5] == "trainer":
                    seconds = take_epoch(model, x, steps, folder)
                else:
                    seconds = take_batches(one_batch, batch, steps)
            print(seconds / steps, flush=True)


if __name__ == "__main__":
    main()
