"""Train a small decoder to copy, with Athena's parts used alone: no command line, no recipe.

    python examples/copy_task.py

A row is eight random symbols, a separator, and the same symbols again. The second half can be
predicted only by looking back, which a model without attention cannot do. The run's folder is
``runs/copy-task``; interrupted with Ctrl-C and started again, it goes on where it was.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from athena_core import Interrupted, Run
from athena_nn import Decoder, RotaryPositions
from athena_optim import AdamW, param_groups, warmup_cosine

SYMBOLS, LENGTH, BATCH = 16, 8, 64
SEPARATOR = SYMBOLS


def draw(device: torch.device) -> Tensor:
    """Rows to copy, from torch's global generator, which a checkpoint saves. Shape: (batch, 2 length + 1)."""
    symbols = torch.randint(SYMBOLS, (BATCH, LENGTH))
    return torch.cat((symbols, torch.full((BATCH, 1), SEPARATOR), symbols), dim=1).to(device)


def train(folder: Path, steps: int = 150) -> dict[str, float]:
    """Train in ``folder``, and return the share of copied symbols that are right."""
    with Run(folder, config={"task": "copy", "steps": steps}) as run:
        positions = RotaryPositions(head_dim=16)
        model = Decoder(
            SYMBOLS + 1, 64, num_layers=2, num_heads=4, ff_dim=128, max_length=2 * LENGTH, positions=positions
        ).to(run.device)
        optimizer = AdamW(param_groups(model, weight_decay=0.01), lr=3e-3, max_norm=1.0)
        schedule = warmup_cosine(optimizer, warmup_steps=steps // 10, total_steps=steps)
        for step in run.steps(steps, model=model, optimizer=optimizer, schedule=schedule):
            rows = draw(run.device)
            logits, targets = model(rows[:, :-1])[:, LENGTH:], rows[:, LENGTH + 1 :]
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            run.check_finite(step, model, loss)
            optimizer.step()
            schedule.step()
            run.log(step, loss=loss.item(), accuracy=(logits.argmax(-1) == targets).float().mean().item())
        rows = draw(run.device)
        with torch.no_grad():
            guesses = model(rows[:, :-1])[:, LENGTH:].argmax(-1)
        metrics = {"accuracy": (guesses == rows[:, LENGTH + 1 :]).float().mean().item()}
        run.finish(metrics)
    return metrics


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small, a second thread costs more than it gives
    try:
        print(train(Path("runs/copy-task")))
    except Interrupted:
        print("interrupted; start again to go on")
