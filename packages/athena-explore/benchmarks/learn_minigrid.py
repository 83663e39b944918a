"""MiniGrid with and without a bonus: 1 M frames of PPO over ten seeds, curves and differences.

`tune` tries each of CANDIDATES on a seed that is not reported; `report` runs PPO alone and the candidate
named, or the best of `tune`, on seeds 0 to 9. Environments are EnvPool's, in one process a run.

    python learn_minigrid.py tune   MiniGrid-DoorKey-8x8-v0 MiniGrid-MultiRoom-N4-S5-v0 --workers 2
    python learn_minigrid.py report MiniGrid-DoorKey-8x8-v0 MiniGrid-MultiRoom-N4-S5-v0 --workers 2
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Arm = tuple[str, float, dict[str, Any]]  # bonus, coefficient, the bonus's options
Results = dict[str, dict[str, list[dict[str, Any]]]]  # by environment and arm, one a seed
POINTS = 50  # of a curve
LAST = 5  # of them are the result
ENVIRONMENTS = 16
ALONE: Arm = ("counts", 0.0, {})
CANDIDATES: dict[str, Arm] = {
    "counts 0.005": ("counts", 0.005, {}),
    "counts 0.02": ("counts", 0.02, {}),
    "counts 0.1": ("counts", 0.1, {}),
    "rnd 0.02": ("rnd", 0.02, {"hidden": (128,)}),
    "noveld 0.02": ("noveld", 0.02, {"hidden": (128,), "normalize": "return"}),
    "noveld 0.1": ("noveld", 0.1, {"hidden": (128,), "normalize": "return"}),
    "ride 0.02": ("ride", 0.02, {"hidden": (128,), "normalize": "return"}),
    "e3b 0.02": ("e3b", 0.02, {"hidden": (128,), "normalize": "return"}),
}
TUNING_SEEDS = (1000,)
SEEDS = tuple(range(10))


class OneHot(gym.vector.VectorObservationWrapper):
    """MiniGrid's view, each cell's object, colour and state one-hot, and the direction."""

    def __init__(self, env: gym.vector.VectorEnv) -> None:
        super().__init__(env)
        self.single_observation_space = gym.spaces.Box(0, 1, (7 * 7 * 20 + 4,), np.float32)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, env.num_envs)

    def observations(self, observations: Any) -> NDArray[np.float32]:
        image = np.asarray(observations["image"]).astype(np.int64)
        planes = [np.eye(n, dtype=np.float32)[image[..., k]] for k, n in enumerate((11, 6, 3))]
        direction = np.eye(4, dtype=np.float32)[np.asarray(observations["direction"]).reshape(-1)]
        return np.concatenate([np.concatenate(planes, -1).reshape(len(image), -1), direction], 1)


def run(task: tuple[str, int, str, float, dict[str, Any], int]) -> dict[str, Any]:
    """One run: the mean return of episodes in each piece of training, NaN where none ended."""
    import torch

    from athena_core.environments.sb3 import GymnasiumVecEnv
    from athena_explore import EnvPoolVectorEnv
    from athena_explore.sb3 import IntrinsicPPO

    environment, seed, bonus, coefficient, options, frames = task
    torch.set_num_threads(1)
    keys = ["direction", "image"]
    pool = EnvPoolVectorEnv(environment, ENVIRONMENTS, seed=seed, observation_keys=keys, num_threads=1)
    model = IntrinsicPPO(
        "MlpPolicy",
        GymnasiumVecEnv(OneHot(pool)),
        bonus=bonus,
        bonus_coefficient=coefficient,
        bonus_options=options,
        n_steps=128,
        batch_size=256,
        n_epochs=4,
        learning_rate=1e-3,
        ent_coef=0.01,
        seed=seed,
        device="cpu",
        stats_window_size=10**6,
    )
    begun, curve = time.perf_counter(), []
    for piece in range(POINTS):
        model.learn(frames // POINTS, reset_num_timesteps=piece == 0)
        returns = [episode["r"] for episode in model.ep_info_buffer]
        curve.append(float(np.mean(returns)) if returns else float("nan"))
        model.ep_info_buffer.clear()
    seconds = time.perf_counter() - begun
    return {"seed": seed, "curve": curve, "frames_per_second": model.num_timesteps / seconds}


def run_all(plan: Mapping[str, Mapping[str, Arm]], seeds: Sequence[int], arguments: Any) -> Results:
    """Every arm of every environment on every seed, side by side in processes; saved as they come."""
    results: Results = {environment: {name: [] for name in arms} for environment, arms in plan.items()}
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(arguments.workers, multiprocessing.get_context("spawn")) as pool:
        jobs = {
            pool.submit(run, (environment, seed, *arm, arguments.frames)): (environment, name)
            for seed in seeds
            for environment, arms in plan.items()
            for name, arm in arms.items()
        }
        for job in as_completed(jobs):
            environment, name = jobs[job]
            latest = job.result()
            results[environment][name].append(latest)
            text = json.dumps({"frames": arguments.frames, "results": results[environment]}, indent=1)
            (folder / f"{environment}-{arguments.what}.json").write_text(text)
            speed = latest["frames_per_second"]
            print(
                f"{environment} {name} seed {latest['seed']}: {final(latest):.3f}, {speed:.0f}/s", flush=True
            )
    return results


def final(result: dict[str, Any]) -> float:
    """The mean return in the last tenth of training; 0 where no episode ended."""
    tail = np.array(result["curve"][-LAST:])
    return float(np.nanmean(tail)) if np.isfinite(tail).any() else 0.0


def best(environment: str, folder: Path) -> str:
    """The candidate with the highest mean return over the whole of training, of those that `tune` tried."""
    results = json.loads((folder / f"{environment}-tune.json").read_text())["results"]
    missing = [name for name in CANDIDATES if len(results.get(name, [])) < len(TUNING_SEEDS)]
    if missing:
        print(f"{environment}: `tune` did not finish {', '.join(missing)}; the best is taken of the others.")
    return max(results.keys() - set(missing), key=lambda name: curves(results[name]).mean())


def curves(rows: list[dict[str, Any]]) -> NDArray[np.float64]:
    """The curves of runs in the order of their seeds; before an episode ended, the return is 0."""
    return np.nan_to_num([one["curve"] for one in sorted(rows, key=lambda one: one["seed"])])


def report(environment: str, arms: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """The table of interquartile means, the differences from PPO alone on the same seeds, and the curves."""
    from athena_core import figures, stats

    frames = np.arange(1, POINTS + 1) / POINTS
    every = {name: curves(rows) for name, rows in arms.items()}
    for what, last in (("last tenth", LAST), ("all of training", POINTS)):
        scores = {name: curve[:, -last:].mean(1) for name, curve in every.items()}
        for name, values in scores.items():
            estimate, low, high = stats.bootstrap_interval(values, rng=0)
            runs = np.round(values, 2).tolist()
            print(f"{environment} {name}, {what}: IQM {estimate:.3f} [{low:.3f}, {high:.3f}], {runs}")
        for name in scores.keys() - {"PPO alone"}:
            gain = stats.paired_difference(scores[name], scores["PPO alone"], rng=0)
            ends = f"[{gain.low:.3f}, {gain.high:.3f}]"
            print(f"{environment} {name} over PPO, {what}: {gain.estimate:.3f} {ends}")
    bands = {name: (frames, stats.learning_curve(curve, rng=0)) for name, curve in every.items()}
    figure = figures.learning_curves(bands, x_label="frames (M)", y_label="return", title=environment)
    figures.save(figure, folder / f"{environment}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["tune", "report"])
    parser.add_argument("environments", nargs="+")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", default="results")
    parser.add_argument("--candidate", help="of `report`, in place of the best of `tune`")
    arguments = parser.parse_args()
    if arguments.what == "tune":
        run_all(dict.fromkeys(arguments.environments, CANDIDATES), TUNING_SEEDS, arguments)
        return
    plan = {}
    for environment in arguments.environments:
        name = arguments.candidate or best(environment, Path(arguments.out))
        plan[environment] = {"PPO alone": ALONE, name: CANDIDATES[name]}
    for environment, arms in run_all(plan, SEEDS, arguments).items():
        report(environment, arms, Path(arguments.out))


if __name__ == "__main__":
    main()
