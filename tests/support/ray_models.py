"""Models of cells that run in a cluster of Ray: they write down where each cell runs."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

from models import Linear


class Watched(Linear):
    """A linear model that is slow enough to lose its machine in the middle of a training."""

    def guide(self, x):
        time.sleep(0.001)
        super().guide(x)


def watched(folder: str) -> Watched:
    """Return a new model, and write a file with the process and the machine of Ray, if there is one."""
    import ray

    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "local"
    (Path(folder) / uuid.uuid4().hex).write_text(f"{os.getpid()} {node}")
    return Watched()
