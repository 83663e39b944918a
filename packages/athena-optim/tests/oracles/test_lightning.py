"""Lightning runs every optimizer unchanged: fitted, checkpointed and resumed as a plain loop would."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader, TensorDataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    import lightning

from cases import CASES, Case

pytestmark = pytest.mark.filterwarnings("ignore")  # its advice on workers, loggers and devices
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Tiny(lightning.LightningModule):
    """Two layers; automatic optimization, in which Lightning passes the closure."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
        self.case = case

    def training_step(self, batch, _):
        x, y = batch
        return mse_loss(self.model(x), y)

    def configure_optimizers(self):
        optimizer = self.case.make(self.parameters(), lr=0.05)
        schedule = {"scheduler": ExponentialLR(optimizer, 0.9), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def data() -> DataLoader:
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x[:, :2].sin()), batch_size=8)


def fit(module: Tiny, folder: Path, epochs: int, checkpoint: Path | None = None) -> lightning.Trainer:
    trainer = lightning.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data(), ckpt_path=checkpoint)
    return trainer


def plain_loop(case: Case, epochs: int) -> list[torch.Tensor]:
    module = Tiny(case)
    parts = module.configure_optimizers()
    optimizer, schedule = parts["optimizer"], parts["lr_scheduler"]["scheduler"]
    for _ in range(epochs):
        for batch in data():

            def closure() -> torch.Tensor:
                optimizer.zero_grad()
                loss = module.training_step(batch, 0)  # noqa: B023
                loss.backward()
                return loss

            optimizer.step(closure)
            schedule.step()
    return [p.detach() for p in module.parameters()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_a_plain_loop_and_resumes(case, tmp_path):
    whole, first, second = Tiny(case), Tiny(case), Tiny(case)
    fit(whole, tmp_path, 4)
    fit(first, tmp_path, 2).save_checkpoint(tmp_path / "half.ckpt")
    fit(second, tmp_path, 4, tmp_path / "half.ckpt")
    for a, b, c in zip(whole.parameters(), second.parameters(), plain_loop(case, 4), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
