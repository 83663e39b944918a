"""What a newcomer may hand in by mistake, and the one line that tells what to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from athena_meta import (
    MAML,
    Baseline,
    Conv4,
    EpisodeList,
    Episodes,
    EpisodeSampler,
    FewShotDataset,
    HeadFitting,
    InnerAdam,
    PrototypicalNetwork,
    Reptile,
    Sinusoids,
    evaluate,
)

LABELS = torch.arange(40) % 4


def data() -> FewShotDataset:
    return FewShotDataset(torch.rand(40, 6), LABELS)


def episodes(n_way: int = 3) -> Episodes:
    return EpisodeSampler(data(), n_way=n_way, k_shot=2, n_query=2, seed=0).draw(0, 2)


def maml(outputs: int = 3, **options: object) -> MAML:
    return MAML(nn.Linear(6, outputs), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["vmap", "loop", "auto"])
@pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss()])
def test_more_ways_than_outputs(mode, loss):
    learner = maml(2, mode=mode, loss=loss)
    words = "an output for each class of a task, 3; got 2. Widen"
    for use in (learner.loss, learner.predict):
        with pytest.raises(ValueError, match=words):
            use(episodes())
    with pytest.raises(ValueError, match=words):
        learner.adapt(torch.rand(3, 6), ["a", "b", "c"])
    with pytest.raises(ValueError, match=words):
        evaluate(learner, EpisodeSampler(data(), n_way=3, n_query=2), episodes=2)


def test_the_loss_of_a_classifier_on_a_regression():
    with pytest.raises(ValueError, match="cross entropy, which is 0 for any one output"):
        MAML(nn.Linear(1, 1)).loss(Sinusoids().draw(0, 2))
    floats = episodes()._replace(support_y=torch.rand(2, 6), query_y=torch.rand(2, 6))
    with pytest.raises(ValueError, match=r"whole numbers for cross entropy; got torch.float32"):
        maml().loss(floats)
    with pytest.raises(ValueError, match="Use a learner such as MAML for regression"):
        PrototypicalNetwork(nn.Identity()).loss(Sinusoids().draw(0, 2))
    probabilities = F.one_hot(episodes().support_y, 3).float()
    assert maml().loss(episodes()._replace(support_y=probabilities, query_y=probabilities)).isfinite()


def test_one_hot_labels():
    coded = episodes()._replace(support_y=F.one_hot(episodes().support_y))
    with pytest.raises(ValueError, match=r"one label an example, .* Undo a one-hot code"):
        PrototypicalNetwork(nn.Identity()).predict(coded)
    both = coded._replace(query_y=F.one_hot(episodes().query_y))
    with pytest.raises(ValueError, match="labels must be one whole number an example for cross entropy"):
        maml(mode="loop").loss(both)


def test_encoders_without_features():
    bytes_ = Episodes(*((part * 9).byte() for part in episodes()[:4]))
    with pytest.raises(ValueError, match=r"floating-point features, to be averaged; got torch.uint8"):
        PrototypicalNetwork(nn.Identity()).loss(bytes_)
    with pytest.raises(ValueError, match=r"one tensor of features .* n = 24; got tuple. Return the features"):
        PrototypicalNetwork(nn.LSTM(6, 4)).loss(episodes())
    with pytest.raises(ValueError, match=r"got \(144,\). Return the features"):
        PrototypicalNetwork(nn.Flatten(0)).loss(episodes())


LEARNERS = [maml(), PrototypicalNetwork(nn.Identity()), Baseline(nn.Linear(6, 5), features=5, n_classes=4)]


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: type(learner).__name__)
def test_adaptation_to_arrays(learner):
    inputs = torch.rand(3, 6)
    for labels in (np.array(["b", "a", "c"]), [*np.array(["b", "a", "c"])]):
        assert learner.adapt(inputs, labels).classes == ("a", "b", "c")
    for labels in (np.array([2, 0, 1]), [*np.array([2, 0, 1])]):
        assert learner.adapt(inputs, labels).classes == (0, 1, 2)
    with pytest.raises(TypeError, match=r"`support_x` must be a tensor; got ndarray. Use torch.as_tensor"):
        learner.adapt(inputs.numpy(), ["a", "b", "c"])
    with pytest.raises(ValueError, match="all strings or all whole numbers; got int, str"):
        learner.adapt(inputs, ["a", 1, "c"])


@pytest.mark.parametrize("learner", [maml(), Reptile(nn.Linear(6, 3)), PrototypicalNetwork(nn.Identity())])
def test_no_episodes(learner):
    arrays = Episodes(*(part.numpy() for part in episodes()))  # type: ignore[arg-type]
    for given in (None, tuple(episodes()), arrays):
        for use in (learner.loss, learner.predict):
            with pytest.raises(TypeError, match="`episodes` must be Episodes of tensors; got"):
                use(given)


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_losses_that_are_none(mode):
    with pytest.raises(TypeError, match=r"`loss` must return a tensor .* got float. Return it without item"):
        maml(loss=lambda _outputs, _targets: 0.5, mode=mode).loss(episodes())
    with pytest.raises(TypeError, match="`loss` must be a function of outputs and targets; got 'mse'"):
        maml(loss="mse")


def test_networks_that_are_none():
    with pytest.raises(TypeError, match=r"`network` must be a torch.nn.Module, .* got function"):
        MAML(lambda x: x)  # type: ignore[arg-type]

    class Two(nn.Linear):
        def forward(self, x):
            return (super().forward(x),) * 2

    with pytest.raises(TypeError, match="`network` must return one tensor for this `loss`; got tuple"):
        MAML(Two(6, 3)).loss(episodes())
    with pytest.raises(TypeError, match="`network` must return one tensor to be predicted with; got tuple"):
        MAML(Two(6, 3), loss=lambda outputs, y: F.cross_entropy(outputs[0], y)).predict(episodes())


def test_options_of_other_types():
    with pytest.raises(TypeError, match=r"`inner_lr` must be a number; got '0.1'"):
        maml(inner_lr="0.1")
    with pytest.raises(TypeError, match=r"`inner_steps` must be a whole number; got 2.5"):
        maml(inner_steps=2.5)
    with pytest.raises(TypeError, match=r"`chunk_size` must be a whole number; got 1.5"):
        maml(chunk_size=1.5)
    with pytest.raises(
        TypeError, match=r"`inner` must be an InnerUpdate; got <class .*Pass one, as InnerAdam"
    ):
        maml(inner=InnerAdam)
    with pytest.raises(ValueError, match=r"`fitting.steps` must be at least 0; got -1"):
        Baseline(nn.Identity(), features=6, n_classes=4, fitting=HeadFitting(steps=-1))
    with pytest.raises(ValueError, match="`channels` and `width` must be at least 1; got 1 and 0"):
        Conv4(width=0)
    with pytest.raises(ValueError, match=r"which nn.DataParallel cannot; got one. Pass its `module`"):
        MAML(nn.DataParallel(nn.Linear(6, 3)))
    assert maml(inner_lr=np.float32(0.1), inner_steps=np.int64(2)).inner_steps == 2


def test_no_loss_in_inference_mode():
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"in inference mode, .* torch.no_grad"):
        maml().loss(episodes())
    with torch.no_grad():
        assert maml().loss(episodes()).isfinite()


@pytest.mark.parametrize("option", ["n_way", "k_shot", "n_query", "seed"])
@pytest.mark.parametrize("value", [2.0, None])
def test_numbers_of_a_sampler(option, value):
    options = {"n_way": 2, "n_query": 2, "k_shot": 2, option: value}
    with pytest.raises(TypeError, match=f"`{option}` must be a whole number; got {value}"):
        EpisodeSampler(data(), **options)


def test_whole_numbers_of_numpy_and_torch():
    plain = EpisodeSampler(data(), n_way=2, k_shot=2, n_query=3, seed=4).select(0, 2)
    for kind in (np.int64, torch.tensor):
        same = EpisodeSampler(data(), n_way=kind(2), k_shot=kind(2), n_query=kind(3), seed=kind(4))
        assert all(map(torch.equal, same.select(0, 2), plain))
    with pytest.raises(TypeError, match=r"`k_shot` must be a whole number; got 2.5"):
        Sinusoids(k_shot=2.5)  # type: ignore[arg-type]


def test_the_last_episode():
    for source in (EpisodeSampler(data(), n_way=2, n_query=2), Sinusoids()):
        assert source.draw(2**64 - 2**5, 2).tasks == 2
        with pytest.raises(ValueError, match=r"`first` and all that follow must be below 2\*\*64; got"):
            source.draw(2**64, 2)


def test_no_data_set():
    with pytest.raises(TypeError, match="`dataset` must be a FewShotDataset; got Tensor"):
        EpisodeSampler(torch.rand(4, 3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`query_dataset` must be a FewShotDataset; got list"):
        EpisodeSampler(data(), query_dataset=[])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`images` must be a tensor or a NumPy array; got list"):
        FewShotDataset([[1.0], [2.0]], [0, 1])  # type: ignore[arg-type]


def test_queries_of_the_same_data_are_of_other_images():
    same = data()
    sampler = EpisodeSampler(same, n_way=4, k_shot=5, n_query=5, seed=0, query_dataset=same)
    chosen = sampler.select(0, 20)
    for support, query in zip(chosen.support.tolist(), chosen.query.tolist(), strict=True):
        assert not set(support) & set(query)
    with pytest.raises(ValueError, match="`k_shot` plus `n_query` must be at most"):
        EpisodeSampler(same, n_way=4, k_shot=6, n_query=5, query_dataset=same)


def test_evaluation_of_other_things():
    sampler = EpisodeSampler(data(), n_way=3, n_query=2)
    with pytest.raises(TypeError, match="`source` must be an EpisodeSource; got FewShotDataset"):
        evaluate(maml(), data())  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"`learner` must be a FewShotLearner; got DataParallel. Pass its `mo"
    ):
        evaluate(nn.DataParallel(maml()), sampler)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"`episodes` must be a whole number; got 20.0"):
        evaluate(maml(), sampler, episodes=20.0)  # type: ignore[arg-type]
    for interval in ("interval", "by_class"):
        with pytest.raises(ValueError, match="`level` must lie between 0 and 1; got 95"):
            getattr(evaluate(maml(), sampler, episodes=2), interval)(level=95)
    with pytest.raises(TypeError, match=r"`tasks` must be a whole number; got 1.5"):
        sampler.batches(1.5)  # type: ignore[arg-type]


def test_a_list_of_episodes_that_is_no_json(tmp_path):
    (tmp_path / "list.json").write_text("")
    with pytest.raises(ValueError, match=r"list of episodes in JSON; '.*list.json' is not: Expecting value"):
        EpisodeList.load(tmp_path / "list.json", data())


def test_a_network_that_vmap_cannot_take():
    class Branching(nn.Linear):
        def forward(self, x):
            outputs = super().forward(x)
            return outputs if outputs.sum() > 0 else -outputs

    learner = MAML(Branching(6, 3), mode="vmap")
    for use in (learner.loss, learner.predict):
        with pytest.raises(
            RuntimeError, match=r"`mode` must be 'loop' or 'auto' .* got 'vmap': vmap: It looks"
        ):
            use(episodes())
