"""Batches of several tasks: what comes, and that a run that goes on gets what would have come."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler, TensorDataset

from athena_multitask import JointBatches, ProportionalSampling, TaskBatches, UniformSampling

SIZES = {"small": 5, "large": 23}
Loaders = dict[str, DataLoader]


def data(size: int) -> Dataset:
    return TensorDataset(torch.arange(size))


def own_generators(seed: int = 7, **options: Any) -> Loaders:
    return {
        name: DataLoader(
            data(size), 2, shuffle=True, generator=torch.Generator().manual_seed(seed + size), **options
        )
        for name, size in SIZES.items()
    }


def in_order() -> Loaders:
    return {name: DataLoader(data(size), 2) for name, size in SIZES.items()}


def torchs_generator() -> Loaders:
    return {name: DataLoader(data(size), 2, shuffle=True) for name, size in SIZES.items()}


def by_epoch() -> Loaders:
    found = {}
    for name, size in SIZES.items():
        examples = data(size)
        sampler = DistributedSampler(examples, num_replicas=2, rank=1, shuffle=True)
        found[name] = DataLoader(examples, 2, sampler=sampler)
    return found


def samplers_generators() -> Loaders:
    found = {}
    for name, size in SIZES.items():
        examples = data(size)
        sampler = RandomSampler(examples, replacement=True, generator=torch.Generator().manual_seed(size))
        found[name] = DataLoader(examples, 3, sampler=sampler)
    return found


LOADERS: dict[str, Callable[[], Loaders]] = {
    "in-order": in_order,
    "own-generators": own_generators,
    "torchs-generator": torchs_generator,
    "by-epoch": by_epoch,
    "samplers-generators": samplers_generators,
}


def drawn(loaders: Loaders, steps: int = 40) -> TaskBatches:
    return TaskBatches(loaders, ProportionalSampling(SIZES, seed=1), steps=steps)


def joint(loaders: Loaders, steps: int = 40) -> JointBatches:
    return JointBatches(loaders, steps=steps)


def plain(pairs: Iterator[Any]) -> list[Any]:
    """Batches as lists of numbers."""
    found = []
    for pair in pairs:
        items = pair.items() if isinstance(pair, dict) else [pair]
        found.append([(name, batch[0].tolist()) for name, batch in items])
    return found


def test_a_loader_that_ends_is_begun_anew() -> None:
    batches = plain(iter(TaskBatches(in_order(), UniformSampling(SIZES, seed=2), steps=30)))
    assert len(batches) == 30
    small = [batch for ((name, batch),) in batches if name == "small"]
    large = [batch for ((name, batch),) in batches if name == "large"]
    assert len(small) > 6
    assert small == [[[0, 1], [2, 3], [4]][place % 3] for place in range(len(small))]
    assert large == [[2 * p % 24, 2 * p % 24 + 1] if p % 12 < 11 else [22] for p in range(len(large))]


def test_each_task_comes_as_the_sampling_says() -> None:
    tasks = [task for task, _ in drawn(in_order(), steps=60)]
    sampling = ProportionalSampling(SIZES, seed=1)
    assert tasks == [sampling.sample() for _ in range(60)]


def test_shuffling_goes_on_from_epoch_to_epoch() -> None:
    for make in (own_generators, torchs_generator, by_epoch):
        small = [batches["small"][0].tolist() for batches in joint(make(), steps=12)]
        length = len(make()["small"])
        epochs = [small[start : start + length] for start in range(0, 12, length)]
        assert any(epoch != epochs[0] for epoch in epochs[1:])


@pytest.mark.parametrize("kind", [drawn, joint])
@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("stop", [0, 1, 3, 6, 17])  # 3 and 6: small loaders have just ended
def test_a_run_that_goes_on_is_as_one_that_never_stopped(
    kind: Callable[..., Any], make: Callable[[], Loaders], stop: int
) -> None:
    torch.manual_seed(0)
    batches = kind(make())
    stream = iter(batches)
    for _ in range(stop):
        next(stream)
    state, random = copy.deepcopy(batches.state_dict()), torch.get_rng_state()
    expected = plain(stream)
    torch.manual_seed(99)
    other = kind(make())
    next(iter(other))  # what was taken before does not matter
    other.load_state_dict(state)
    torch.set_rng_state(random)  # as whoever resumes a run does
    assert plain(iter(other)) == expected
    assert len(expected) == 40 - stop


class Noisy(Dataset):
    """Examples that are another each time, as augmentation makes them."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, place: int) -> tuple[torch.Tensor]:
        return (place + torch.rand(()) / 2,)


@pytest.mark.parametrize("options", [{}, {"num_workers": 1}])
def test_augmentation_goes_on_too(options: dict[str, Any]) -> None:
    def make() -> JointBatches:
        generator = torch.Generator().manual_seed(3)
        return joint({"a": DataLoader(Noisy(), 2, shuffle=True, generator=generator, **options)}, steps=9)

    batches = make()
    stream = iter(batches)
    for _ in range(4):
        next(stream)
    state, random = batches.state_dict(), torch.get_rng_state()
    expected = plain(stream)
    other = make()
    other.load_state_dict(state)
    torch.set_rng_state(random)
    assert plain(iter(other)) == expected


def test_workers_that_persist_have_no_state() -> None:
    batches = joint(own_generators(num_workers=1, persistent_workers=True), steps=4)
    assert len(list(batches)) == 4
    with pytest.raises(ValueError, match=r"`loaders\['small'\]` must begin workers anew in each epoch"):
        batches.state_dict()
    with pytest.raises(ValueError, match=r"`loaders\['small'\]` must begin workers anew in each epoch"):
        batches.load_state_dict(joint(own_generators()).state_dict())


def test_a_state_is_that_after_the_batch_in_hand() -> None:
    states = []
    batches = drawn(in_order(), steps=5)
    for _ in batches:
        states.append(batches.state_dict())  # noqa: PERF401  # a state is of its step
    assert [state["step"] for state in states] == [1, 2, 3, 4, 5]
    other = drawn(in_order(), steps=5)
    other.load_state_dict(states[2])
    assert len(list(other)) == 2


def test_going_on_draws_nothing_from_torchs_generator() -> None:
    batches = joint(torchs_generator())
    next(iter(batches))
    state, other = batches.state_dict(), joint(torchs_generator())
    before = torch.get_rng_state()
    other.load_state_dict(state)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_is_of_plain_things(tmp_path: Any) -> None:
    batches = drawn(own_generators())
    next(iter(batches))
    torch.save(batches.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other = drawn(own_generators())
    other.load_state_dict(state)
    assert plain(iter(other)) == plain(iter(batches))


def test_anything_that_can_be_begun_again() -> None:
    assert list(JointBatches({"a": range(2), "b": "xyz"}, steps=4)) == [
        {"a": 0, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 0, "b": "z"},
        {"a": 1, "b": "x"},
    ]


def test_bad_loaders() -> None:
    with pytest.raises(ValueError, match="`loaders` must hold one for each task; got none"):
        JointBatches({}, steps=1)
    with pytest.raises(ValueError, match=r"`loaders\['a'\]` must give a batch.*got none in epoch 1"):
        next(iter(JointBatches({"a": []}, steps=1)))
    with pytest.raises(ValueError, match=r"`loaders\['a'\]` must give a batch.*got none in epoch 2"):
        list(JointBatches({"a": (place for place in range(2))}, steps=3))
    shared = torch.Generator()
    loaders = {name: DataLoader(data(4), shuffle=True, generator=shared) for name in "ab"}
    with pytest.raises(ValueError, match="generator of its own; got one for 'a' and 'b'"):
        JointBatches(loaders, steps=1)


def test_bad_steps_and_tasks() -> None:
    with pytest.raises(ValueError, match="`steps` must be at least 0; got -1"):
        joint(in_order(), steps=-1)
    with pytest.raises(ValueError, match=r"`sampling` must be of the tasks of `loaders`.*got \['a'\]"):
        TaskBatches(in_order(), UniformSampling(["a"]), steps=1)


def test_states_that_do_not_fit() -> None:
    batches = joint(in_order())
    stream = iter(batches)
    for _ in range(8):
        next(stream)
    state = batches.state_dict()
    with pytest.raises(
        ValueError, match=r"checkpoint must be of the tasks \['a'\]; got \['small', 'large'\]"
    ):
        JointBatches({"a": [1]}, steps=1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"`loaders\['large'\]` must give the 8 batches.*got 2"):
        joint({"small": in_order()["small"], "large": [1, 2]}).load_state_dict(state)
    with pytest.raises(ValueError, match=r"`loaders\['small'\]` must have as many generators.*, 0; got 1"):
        joint(own_generators()).load_state_dict(state)
