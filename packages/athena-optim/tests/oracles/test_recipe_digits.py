"""The recipe `optimizers` on scikit-learn's digits: its data, and how well it does beside scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from athena_core import Run
from athena_optim._recipe_data import read_labelled, split_labelled
from athena_optim._recipe_optimizers import Optimizers

CPU = torch.device("cpu")


def test_digits_are_scikit_learns():
    ours = read_labelled("digits")
    theirs = load_digits()
    assert np.array_equal(ours.features, theirs.data)
    assert np.array_equal(ours.labels, theirs.target)


def test_features_are_scaled_as_scikit_learn_scales_them():
    ours = split_labelled(read_labelled("digits"), seed=0, device=CPU)
    order = np.random.default_rng(0).permutation(1797)
    features = load_digits().data[order]
    scaler = StandardScaler().fit(features[2 * 359 :])
    theirs = torch.from_numpy(scaler.transform(features[:359])).float()
    torch.testing.assert_close(ours.test.features, theirs, rtol=1e-5, atol=1e-5)


def test_a_small_search_is_as_good_as_logistic_regression(tmp_path: Path):
    recipe = Optimizers(
        optimizers=("adamw", "lookahead(adamw)"),
        batch_sizes=(64, 256),
        learning_rates=(3e-3, 1e-2),
        repeats=2,
    )
    with Run(tmp_path / "run", device="cpu", console=Console(quiet=True)) as run:
        final = recipe.run(run)
    train, _, test, _ = split_labelled(read_labelled("digits"), seed=0, device=CPU)
    linear = LogisticRegression(max_iter=1000).fit(train.features.numpy(), train.labels.numpy())
    baseline = linear.score(test.features.numpy(), test.labels.numpy())
    for name in ("adamw_batch_64", "adamw_batch_256", "lookahead(adamw)_batch_64"):
        assert final[name] > baseline - 0.02, (name, final, baseline)
    assert final["adamw_batch_64"] > 0.94
