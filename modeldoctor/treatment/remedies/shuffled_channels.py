"""`shuffled-channels`: the control whose channel constraint allows each class as many kernels, drawn at random.

Shapes: N classes, K channels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from modeldoctor.treatment.remedies import treat
from modeldoctor.treatment.remedies.remedy import Remedy, RunContext


def make(run: RunContext) -> Remedy:
    """`treat` with every class's row of allowed kernels (N,K) permuted."""
    rng = np.random.default_rng(run.seed)

    def shuffled(correlated: Tensor) -> Tensor:
        return torch.from_numpy(rng.permuted(correlated.numpy(), axis=1))

    return replace(treat.make(run), penalty=run.make_penalty(shuffled))
