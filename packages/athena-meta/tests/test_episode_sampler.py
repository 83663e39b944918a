"""N-way K-shot episodes: what they hold, that they are uniform, and the same wherever they are drawn."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from athena_meta import Episodes, EpisodeSampler, FewShotDataset


def dataset(counts: list[int], *, names: list[str] | None = None) -> FewShotDataset:
    """Image ``i`` is the number ``i``; classes are shuffled among the images."""
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(0).shuffle(labels)
    names = names or [f"class {number}" for number in range(len(counts))]
    return FewShotDataset(torch.arange(float(len(labels)))[:, None], labels, classes=names)


def numbers(images: torch.Tensor) -> torch.Tensor:
    return images.squeeze(-1).long()


def assert_same(ours: Episodes, other: Episodes) -> None:
    for mine, its in zip(ours, other, strict=True):
        assert torch.equal(mine, its)


def chi_square(counts: np.ndarray, expected: float) -> float:
    """How many standard deviations the statistic lies above its mean, for equal probabilities."""
    degrees = counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - degrees) / math.sqrt(2 * degrees)


@given(
    st.lists(st.integers(5, 30), min_size=4, max_size=9),
    st.integers(1, 4),
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(0, 2**63),
)
def test_an_episode_is_what_it_says(counts, n_way, k_shot, n_query, seed) -> None:
    data = dataset(counts)
    sampler = EpisodeSampler(data, n_way=n_way, k_shot=k_shot, n_query=n_query, seed=seed)
    episodes = sampler.draw(3, 5).checked()
    assert episodes.support_x.shape == (5, n_way * k_shot, 1)
    assert episodes.query_x.shape == (5, n_way * n_query, 1)
    for support, support_y, query, query_y, classes in zip(*map(list, episodes), strict=True):
        assert len(set(classes.tolist())) == n_way
        # Pitfall 14: which image is support and which is query follows from its class, not its place.
        assert torch.equal(data.labels[numbers(support)], classes[support_y])
        assert torch.equal(data.labels[numbers(query)], classes[query_y])
        assert support_y.bincount(minlength=n_way).tolist() == [k_shot] * n_way
        assert query_y.bincount(minlength=n_way).tolist() == [n_query] * n_way
        images = numbers(torch.cat([support, query]))
        assert len(images.unique()) == len(images), "an image is used twice"


@pytest.mark.parametrize("options", [{}, {"k_shot": [3, 1, 2], "n_query": [0, 2, 5]}])
@pytest.mark.parametrize("counts", [[8] * 6, [100] * 50, [8, 9, 30, 90]])
def test_an_episode_is_the_same_alone_and_in_a_batch(counts, options) -> None:
    data = dataset(counts)
    sampler = EpisodeSampler(data, **({"n_way": 3, "k_shot": 2, "n_query": 4, "seed": 9} | options))
    whole = sampler.draw(0, 12)
    for number in range(12):
        assert_same(sampler.draw(number, 1), whole.take(number, number + 1))
    assert_same(sampler.draw(5, 7), whole.take(5, 12))
    torch.manual_seed(99)
    np.random.seed(99)
    again = EpisodeSampler(data, **({"n_way": 3, "k_shot": 2, "n_query": 4, "seed": 9} | options))
    assert_same(again.draw(0, 12), whole)


def test_changing_an_episode_changes_no_other() -> None:
    sampler = EpisodeSampler(dataset([8] * 6), n_query=4)
    whole = sampler.draw(0, 3)
    for part in sampler.draw(1, 1):
        part.zero_()
    assert_same(sampler.draw(0, 3), whole)


def test_the_order_of_draws_does_not_matter() -> None:
    sampler = EpisodeSampler(dataset([8] * 6), n_query=4)
    firsts = [0, 70, 31, 5, 64, 70, 31]
    drawn = {first: sampler.draw(first, 2) for first in firsts}
    whole = sampler.draw(0, 80)
    for first, episodes in drawn.items():
        assert_same(episodes, whole.take(first, first + 2))


def test_these_episodes_never_change() -> None:
    # Golden: written lists of episodes and published results rely on them.
    sampler = EpisodeSampler(dataset([6] * 8), n_way=3, k_shot=1, n_query=2, seed=42)
    chosen = sampler.select(10**6, 2)
    assert chosen.classes.tolist() == [[1, 0, 2], [5, 7, 1]]
    assert chosen.support.tolist() == [[10, 15, 36], [30, 20, 38]]
    assert chosen.query.tolist() == [[38, 33, 2, 41, 37, 42], [47, 5, 17, 3, 7, 33]]


def test_seeds_and_numbers_give_other_episodes() -> None:
    data = dataset([20] * 30)
    chosen = [EpisodeSampler(data, seed=seed, n_query=2).select(0, 200) for seed in (0, 1, -1)]
    rows = torch.cat([torch.cat([part.support, part.query], dim=1) for part in chosen])
    assert len(rows.unique(dim=0)) == 600


def test_empty_batches_have_the_shapes() -> None:
    episodes = EpisodeSampler(dataset([20] * 6)).draw(4, 0)
    assert episodes.support_x.shape == (0, 5, 1)
    assert episodes.query_y.shape == (0, 75)


@pytest.mark.parametrize("counts", [[6] * 7, [60] * 7, [60] * 40])
def test_classes_and_images_are_uniform(counts: list[int]) -> None:
    # Sampling without replacement spreads counts less than the chi-square has it: the statistic shrinks by
    # (1 - n / N), for n of N drawn at once. So it is tested on one side only.
    tasks, n_way, k_shot, n_query = 12_000, 3, 1, 2
    sampler = EpisodeSampler(dataset(counts), n_way=n_way, k_shot=k_shot, n_query=n_query, seed=1)
    chosen = sampler.select(0, tasks)
    classes = chosen.classes.flatten().bincount(minlength=len(counts)).double().numpy()
    assert len(classes) == len(counts)
    assert chi_square(classes, tasks * n_way / len(counts)) < 4
    total = sum(counts)
    for images in (chosen.support, chosen.query):
        seen = images.flatten().bincount(minlength=total).double().numpy()
        assert len(seen) == total
        assert chi_square(seen, images.numel() / total) < 4
    # Each label stands for every class as often.
    for way in range(n_way):
        seen = chosen.classes[:, way].bincount(minlength=len(counts)).double().numpy()
        assert abs(chi_square(seen, tasks / len(counts))) < 4


def test_pairs_of_support_and_query_are_uniform() -> None:
    sampler = EpisodeSampler(dataset([5]), n_way=1, k_shot=1, n_query=1, seed=2)
    chosen = sampler.select(0, 8000)
    pairs = (chosen.support * 5 + chosen.query).flatten().bincount(minlength=25).double().numpy()
    assert not pairs.reshape(5, 5).diagonal().any()
    assert abs(chi_square(pairs[pairs > 0], 400)) < 4


def test_unequal_shots_are_given_to_the_ways_in_a_fresh_order() -> None:
    shots, queries = [1, 2, 4], [5, 0, 1]
    sampler = EpisodeSampler(dataset([9] * 5), n_way=3, k_shot=shots, n_query=queries, seed=3)
    chosen = sampler.select(0, 3000)
    assert chosen.support.shape == (3000, 7)
    assert chosen.query.shape == (3000, 6)
    orders = Counter()
    for support_y, query_y in zip(chosen.support_y, chosen.query_y, strict=True):
        support = tuple(support_y.bincount(minlength=3).tolist())
        query = tuple(query_y.bincount(minlength=3).tolist())
        assert sorted(support) == sorted(shots)
        assert sorted(query) == sorted(queries)
        orders[support, query] += 1
    assert len(orders) == len(list(permutations(shots))) ** 2
    assert abs(chi_square(np.array(list(orders.values())), 3000 / 36)) < 4
    images = torch.cat([chosen.support, chosen.query], dim=1).sort(1).values
    assert (images[:, 1:] != images[:, :-1]).all()


def test_queries_of_another_domain_are_of_the_shared_classes() -> None:
    photos = dataset([4, 4, 4, 4], names=["cat", "dog", "cow", "owl"])
    sketches = dataset([7, 7, 7, 7], names=["owl", "cow", "cat", "yak"])
    sampler = EpisodeSampler(photos, n_way=3, k_shot=4, n_query=7, query_dataset=sketches, seed=4)
    episodes = sampler.draw(0, 20).checked()
    drawn = set()
    for task in range(20):
        names = [photos.classes[number] for number in episodes.classes[task]]
        drawn.update(names)
        for image, label in zip(numbers(episodes.support_x[task]), episodes.support_y[task], strict=True):
            assert photos.classes[photos.labels[image]] == names[label]
        for image, label in zip(numbers(episodes.query_x[task]), episodes.query_y[task], strict=True):
            assert sketches.classes[sketches.labels[image]] == names[label]
    assert drawn == {"cat", "cow", "owl"}
    assert_same(sampler.draw(3, 1), episodes.take(3, 4))


def test_places_in_two_domains_are_independent() -> None:
    twin = dataset([6] * 5)
    sampler = EpisodeSampler(twin, n_way=1, k_shot=1, n_query=1, query_dataset=dataset([6] * 5), seed=5)
    chosen = sampler.select(0, 6000)
    assert abs((chosen.support == chosen.query).double().mean().item() - 1 / 6) < 5 * math.sqrt(5 / 36 / 6000)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_way": 5}, r"`n_way` must be at most the number of classes, 4; got 5"),
        ({"n_way": 0}, "`n_way` must be at least 1; got 0"),
        (
            {"n_way": 2, "k_shot": 3, "n_query": 4},
            "`k_shot` plus `n_query` must be at most the images of every class; got 7, class 'b' has 6",
        ),
        ({"n_way": 2, "k_shot": [1, 5], "n_query": [1, 2]}, "got 7, class 'b' has 6"),
        ({"n_way": 2, "k_shot": 0}, "`k_shot` must be at least 1 for every class; got 0"),
        ({"n_way": 2, "k_shot": [1, 2, 3]}, "`k_shot` must be a whole number or one for each of 2 ways"),
        ({"n_way": 2, "k_shot": [1.5, 2]}, "`k_shot` must be a whole number or one for each of 2 ways"),
        ({"n_way": 2, "n_query": -1}, "`n_query` must be at least 0 for every class; got -1"),
        ({"n_way": 2, "n_query": 0}, "`n_query` must leave a query to be judged by"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        EpisodeSampler(dataset([9, 6, 7, 8], names=["a", "b", "c", "d"]), **options)


def test_domains_that_do_not_fit_are_refused() -> None:
    ours, other = dataset([9, 9], names=["a", "b"]), dataset([9, 2], names=["a", "b"])
    with pytest.raises(ValueError, match="number of shared classes, 1; got 2"):
        EpisodeSampler(ours, n_way=2, query_dataset=dataset([9, 9], names=["b", "q"]))
    with pytest.raises(ValueError, match=r"`n_query` must be at most the images .* got 3, class 'b' has 2"):
        EpisodeSampler(ours, n_way=2, n_query=3, query_dataset=other)
    with pytest.raises(ValueError, match=r"`k_shot` must be at most the images .* got 3, class 'b' has 2"):
        EpisodeSampler(other, n_way=2, k_shot=3, n_query=3, query_dataset=ours)


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="`first` and `count` must not be negative; got -1 and 2"):
        EpisodeSampler(dataset([20] * 5)).draw(-1, 2)
