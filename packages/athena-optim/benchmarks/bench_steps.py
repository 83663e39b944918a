"""AdamW, LAMB and the wrappers beside torch's fused AdamW and the peers' optimizers.

    python bench_steps.py [--repeats 21] [--json FILE] [--threads 2]

29.3 M parameters in 97 tensors as a decoder has them, then 2,000 small tensors. The limit is memory
traffic, in bytes a parameter and step, at the bandwidth that adding one large tensor to another in place
reaches here: AdamW 28 (read g, theta, m, v; write theta, m, v), LAMB 40 (theta once more for its norm, m
and v or the update once more), Lookahead 16 / k more, centralisation 4 more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytorch_optimizer
import torch
from common import SMALL, bandwidth, compare, decoder_shapes
from torch import nn
from torch.optim import Optimizer

from athena_core.testing.bench import parser, run
from athena_optim import AdamW, CentralizedGradients, Lamb, Lookahead

DECAY = 0.01


def torch_fused(params: list[nn.Parameter]) -> Optimizer:
    return torch.optim.AdamW(params, fused=True)


def torch_clipped(optimizer: Optimizer) -> None:
    """Clip and step, in torch's way unless the optimizer clips by itself."""
    if getattr(optimizer, "max_norm", None) is None:
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1e9)
    optimizer.step()


def rows(*, repeats: int) -> Iterator[dict[str, Any]]:
    big = decoder_shapes()
    same = {"torch fused": 0.0}
    told = {"repeats": repeats, "speed": bandwidth()}
    fused = {"torch fused": torch_fused}
    theirs = {
        "torch foreach": lambda params: torch.optim.AdamW(params, foreach=True),
        "pytorch_optimizer": lambda params: pytorch_optimizer.AdamW(params, weight_decay=DECAY),
    }
    yield compare("AdamW", big, AdamW, fused | theirs, bytes_per_parameter=28, equal=same, **told)
    yield compare(
        "AdamW, clipped",
        big,
        lambda params: AdamW(params, max_norm=1e9),
        fused,
        bytes_per_parameter=36,
        equal=same,
        step=torch_clipped,
        **told,
    )
    lambs = {
        "torch fused AdamW": torch_fused,
        "our foreach": lambda params: Lamb(params, weight_decay=DECAY, foreach=True),
        "pytorch_optimizer": lambda params: pytorch_optimizer.Lamb(params, weight_decay=DECAY),
        "pytorch_optimizer foreach": lambda params: pytorch_optimizer.Lamb(
            params, weight_decay=DECAY, foreach=True
        ),
    }

    def lamb(params: list[nn.Parameter]) -> Optimizer:
        return Lamb(params, weight_decay=DECAY)

    close = {"our foreach": 1e-5}
    yield compare("LAMB", big, lamb, lambs, bytes_per_parameter=40, equal=close, **told)
    yield compare(
        "Lookahead(AdamW), k = 5",
        big,
        lambda params: Lookahead(AdamW(params), k=5),
        {"bare": AdamW, "pytorch_optimizer": lambda p: pytorch_optimizer.Lookahead(torch_fused(p), k=5)},
        bytes_per_parameter=28 + 16 / 5,
        equal={"bare": 0.0},  # after three steps, before the first synchronisation
        steps=5,
        **told,
    )
    yield compare(
        "CentralizedGradients(AdamW)",
        big,
        lambda params: CentralizedGradients(AdamW(params)),
        {"bare": AdamW},
        bytes_per_parameter=32,
        equal={},
        **told,
    )
    yield compare("AdamW", SMALL, AdamW, fused | theirs, bytes_per_parameter=28, equal=same, **told)
    yield compare("LAMB", SMALL, lamb, lambs, bytes_per_parameter=40, equal=close, **told)


if __name__ == "__main__":
    run(parser(__doc__, repeats=21), rows)
