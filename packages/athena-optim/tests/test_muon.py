"""Muon against its paper in float64, torch's Muon and AdamW bit for bit, and what it does at the edges."""

from __future__ import annotations

import io
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from athena_core import SplitEmbedding, SplitLinear
from athena_optim import Muon, muon_groups, newton_schulz, param_groups, warmup_cosine

JORDAN = (3.4445, -4.7750, 2.0315)
SHAPES = [(64, 64), (64, 64), (64, 64), (130, 64), (64, 130), (5,), (1, 7), (7, 1), (3, 2, 4)]


def make_parameters(dtype: torch.dtype = torch.float32, shapes=SHAPES) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def give_gradients(parameters: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step + 1)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def mapped(sigma: Tensor, coefficients=JORDAN, n_steps: int = 5) -> Tensor:
    """What the iteration makes of singular values, by its scalar polynomial."""
    a, b, c = coefficients
    for _ in range(n_steps):
        sigma = a * sigma + b * sigma**3 + c * sigma**5
    return sigma


def by_svd(matrix: Tensor, eps: float = 1e-7, **options) -> Tensor:
    """Newton-Schulz by its definition: the polynomial on the singular values."""
    u, sigma, vh = torch.linalg.svd(matrix / max(float(matrix.norm()), eps), full_matrices=False)
    return u * mapped(sigma, **options) @ vh


@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (9, 4), (1, 6), (6, 1), (1, 1), (3, 4, 7), (2, 7, 4)])
def test_iteration_is_its_polynomial_on_singular_values(shape):
    matrices = torch.randn(shape, dtype=torch.float64)
    options = {"coefficients": (2.0, -1.5, 0.5), "n_steps": 7}
    expected = torch.stack([by_svd(m, **options) for m in matrices.reshape(-1, *shape[-2:])]).view(shape)
    # 7 steps of 3 products; the map's slope at 0 multiplies errors by up to 2**7
    torch.testing.assert_close(newton_schulz(matrices, **options), expected, rtol=0, atol=1e-12)


def test_singular_values_come_near_one_and_zero_ones_stay():
    """The golden range of the default coefficients, on rank 3 of 8: values above a hundredth of the norm."""
    u, v = (torch.linalg.qr(torch.randn(n, 8, dtype=torch.float64)).Q for n in (20, 8))
    sigma = torch.tensor([1.0, 0.3, 0.02, 0, 0, 0, 0, 0], dtype=torch.float64)
    got = torch.linalg.svdvals(newton_schulz(u * sigma @ v.T))
    assert ((got[:3] > 0.65) & (got[:3] < 1.25)).all()
    assert (got[3:] < 1e-12).all()


def plain_muon(
    theta: Tensor,
    gradients: list[Tensor | None],
    *,
    lr,
    weight_decay,
    momentum,
    nesterov,
    adjust_lr,
    maximize,
) -> Tensor:
    """Algorithm 1 of arXiv:2502.16982 with its eq. 4, and Nesterov momentum as in Jordan et al."""
    rows, columns = theta.shape
    scale = max(1, rows / columns) ** 0.5 if adjust_lr == "original" else 0.2 * max(rows, columns) ** 0.5
    m = torch.zeros_like(theta)
    for gradient in gradients:
        if gradient is None:
            continue
        g = -gradient if maximize else gradient
        m = momentum * m + g
        o = by_svd(momentum * m + g if nesterov else m)
        theta = theta - lr * (scale * o + weight_decay * theta)
    return theta


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # differentiable
@pytest.mark.parametrize(
    "mode", [{"foreach": False}, {"differentiable": True}, {"capturable": True}, {}], ids=str
)
@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (1, 3)])
@pytest.mark.parametrize(
    "options",
    [
        {"nesterov": True, "adjust_lr": "original", "weight_decay": 0.0, "maximize": False},
        {"nesterov": False, "adjust_lr": "match_rms_adamw", "weight_decay": 0.3, "maximize": True},
    ],
    ids=["original", "matched"],
)
def test_fifty_steps_equal_the_paper(mode, shape, options):
    """In float64, zero and missing gradients among them; momentum undone by the normalisation."""
    options = {"lr": 0.02, "momentum": 0.9, **options}
    start = torch.randn(shape, dtype=torch.float64)
    parameter = nn.Parameter(start.clone())
    held = parameter.clone() if mode.get("differentiable") else parameter
    optimizer = Muon([held], ns_dtype="float64", **options, **mode)
    draws = torch.randn(50, *shape, dtype=torch.float64)
    gradients = [None if step % 7 == 3 else (step % 7 != 5) * draws[step] for step in range(50)]
    for gradient in gradients:
        held.grad = None if gradient is None else gradient.clone()
        optimizer.step()
    # the map's slope of 3.4**5 at 0 multiplies the roundings of 50 steps
    torch.testing.assert_close(held.detach(), plain_muon(start, gradients, **options), rtol=0, atol=1e-11)


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("adjust_lr", ["original", "match_rms_adamw"])
@pytest.mark.parametrize(
    ("dtype", "nesterov"),
    [(torch.float32, True), (torch.float32, False), (torch.float64, True), (torch.bfloat16, True)],
)
def test_equals_torchs_muon_and_adamw(foreach, adjust_lr, dtype, nesterov):
    """One by one, bit for bit. In batches, products may be added in another order, and bfloat16 parameters
    round once where torch rounds the scaled direction too. AdamW is torch's, fused or as asked for.

    Without Nesterov, torch normalises a bfloat16 momentum in place: see the next test."""
    ours, theirs = make_parameters(dtype), make_parameters(dtype)
    shared = {"lr": 0.01, "weight_decay": 0.2, "momentum": 0.9, "nesterov": nesterov}
    optimizer = Muon(ours, adjust_lr=adjust_lr, adamw_lr=2e-3, foreach=foreach, **shared)
    muon = torch.optim.Muon([p for p in theirs if p.ndim == 2], adjust_lr_fn=adjust_lr, **shared)
    adamw = torch.optim.AdamW(
        [p for p in theirs if p.ndim != 2], lr=2e-3, foreach=foreach, fused=foreach is None
    )
    for step in range(4):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        for each in (optimizer, muon, adamw):
            each.step()
    bound = 1e-2 if dtype == torch.bfloat16 else 1e-3  # directions are bfloat16, times a rate of 0.01
    for a, b in zip(ours, theirs, strict=True):
        if a.ndim != 2 or foreach is False:
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b, rtol=bound, atol=bound)


def test_bfloat16_momentum_is_not_normalised_in_place():
    """Without Nesterov, the direction is the momentum itself, which a cast to its own dtype aliases."""
    parameter = nn.Parameter(torch.zeros(4, 4, dtype=torch.bfloat16))
    for foreach in (None, False):
        optimizer = Muon([parameter], nesterov=False, momentum=0.5, foreach=foreach)
        parameter.grad = torch.full_like(parameter, 8.0)
        optimizer.step()
        assert (optimizer.state[parameter]["momentum_buffer"] == 4.0).all()


def test_batches_and_single_matrices_agree():
    """Many of a shape, one larger than a bucket, and strides of all kinds."""
    shapes = [(30, 20)] * 5 + [(20, 30)] * 3 + [(400, 400), (1, 9), (9, 1)]
    batched, single = make_parameters(torch.float32, shapes), make_parameters(torch.float32, shapes)
    for params in (batched, single):
        params.append(nn.Parameter(torch.arange(600.0).view(30, 20).T))
    options = {"lr": 0.02, "ns_dtype": "float32"}
    optimizers = Muon(batched, **options), Muon(single, foreach=False, **options)
    for step in range(3):
        give_gradients(batched, step)
        give_gradients(single, step)
        for optimizer in optimizers:
            optimizer.step()
    # sums of up to 400 products in another order, times the map's slope
    torch.testing.assert_close(batched, single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_gradients_only_decay(foreach, dtype):
    parameters = make_parameters(dtype, [(4, 6), (6, 4), (4, 6)])
    before = deepcopy(parameters)
    optimizer = Muon(parameters, lr=0.5, weight_decay=0.5, foreach=foreach)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert all(torch.equal(a, b * 0.75) for a, b in zip(parameters, before, strict=True))


def test_a_bad_matrix_leaves_others_of_its_batch_alone():
    parameters = make_parameters(torch.float32, [(4, 6)] * 3)
    optimizer = Muon(parameters)
    give_gradients(parameters, 0)
    parameters[1].grad[0, 0] = float("nan")
    optimizer.step()
    assert [bool(p.isfinite().all()) for p in parameters] == [True, False, True]


def test_convolutions_are_matrices_of_their_first_axis_when_asked():
    kernel, matrix = nn.Parameter(torch.randn(6, 2, 3, 3)), nn.Parameter(torch.empty(6, 18))
    matrix.data.copy_(kernel.data.flatten(1))
    channels_last = nn.Parameter(kernel.detach().clone().to(memory_format=torch.channels_last))
    gradient = torch.randn(6, 18)
    for parameter in (kernel, channels_last):
        parameter.grad = gradient.view(kernel.shape).clone(memory_format=torch.contiguous_format)
    matrix.grad = gradient
    for parameter in (kernel, channels_last, matrix):
        Muon([{"params": [parameter], "orthogonalize": True}], lr=0.1, adjust_lr="match_rms_adamw").step()
    assert torch.equal(kernel.flatten(1), matrix)
    assert torch.equal(channels_last, kernel)


def test_groups_are_split_by_number_of_axes():
    matrix, vector, kernel = (nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (3,), (2, 2, 2)))
    optimizer = Muon([("a", matrix), ("b", vector)], lr=0.5, adamw_lr=0.25, adamw_eps=1e-3)
    optimizer.add_param_group({"params": [("c", kernel)]})
    muon, *adamw = optimizer.param_groups
    assert [group["param_names"] for group in optimizer.param_groups] == [["a"], ["b"], ["c"]]
    assert (muon["orthogonalize"], muon["lr"], muon["eps"], muon["weight_decay"]) == (True, 0.5, 1e-7, 0.1)
    for group in adamw:
        assert (group["orthogonalize"], group["lr"], group["eps"]) == (False, 0.25, 1e-3)


def test_what_a_group_says_holds_for_all_of_it():
    """Groups of `param_groups`: no decay on vectors, also where they are AdamW's."""
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer = Muon(param_groups(model), lr=0.5, weight_decay=0.2)
    assert [(g["orthogonalize"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (True, 0.2),
        (False, 0.0),
    ]


def test_schedules_act_on_both_rates():
    parameters = make_parameters()
    optimizer = Muon(parameters, lr=0.1, adamw_lr=0.01)
    warmup_cosine(optimizer, warmup_steps=10, total_steps=20)
    muon, adamw = (group["lr"] for group in optimizer.param_groups)
    assert muon == pytest.approx(10 * adamw)
    assert adamw < 0.005


def test_a_group_is_added_whole_or_not_at_all():
    parameters = make_parameters()
    optimizer = Muon(parameters)
    count = len(optimizer.param_groups)
    with pytest.raises(ValueError, match="more than one"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, 2)), parameters[5]]})
    assert len(optimizer.param_groups) == count


def test_muon_groups_leave_embeddings_head_and_vectors_to_adamw():
    model = nn.Sequential(
        nn.Embedding(9, 4), nn.Linear(4, 4), nn.Conv1d(4, 4, 3), nn.LayerNorm(4), nn.Linear(4, 9)
    )
    model[1].bias.requires_grad_(False)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = muon_groups(model, head=model[4])
    assert [[names[id(p)] for p in g["params"]] for g in groups] == [
        ["1.weight"],
        ["0.weight", "2.weight", "4.weight"],
        ["2.bias", "3.weight", "3.bias", "4.bias"],
    ]
    assert [(g["orthogonalize"], g.get("weight_decay")) for g in groups] == [
        (True, None),
        (False, None),
        (False, 0.0),
    ]
    optimizer = Muon(groups, adamw_weight_decay=0.3)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.3, 0.0]


def test_muon_groups_find_a_tied_head():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False))
    model[1].weight = model[0].weight
    assert [(len(g["params"]), g["orthogonalize"]) for g in muon_groups(model)] == [(1, False)]


def test_muon_groups_leave_a_vocabulary_in_pieces_to_adamw():
    pieces = [nn.Parameter(torch.randn(5, 4)) for _ in range(2)]
    model = nn.Sequential(SplitEmbedding(pieces), nn.Linear(4, 4), SplitLinear(pieces))
    hidden, others, _ = muon_groups(model)
    assert [id(p) for p in hidden["params"]] == [id(model[1].weight)]
    assert {id(p) for p in others["params"]} == {id(piece) for piece in pieces}


def test_muon_groups_refuse_a_stranger():
    with pytest.raises(ValueError, match="`head`"):
        muon_groups(nn.Linear(2, 2), head=nn.Linear(2, 2))
    with pytest.raises(ValueError, match="trainable"):
        muon_groups(nn.Linear(2, 2).requires_grad_(False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at", [0, 1, 4])
def test_resumes_bit_for_bit(dtype, at):
    ours = make_parameters(dtype)
    optimizer = Muon(ours)
    for step in range(at):
        give_gradients(ours, step)
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed_parameters = deepcopy(ours)
    resumed = Muon(resumed_parameters)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for step in range(at, at + 3):
        for params, each in ((ours, optimizer), (resumed_parameters, resumed)):
            give_gradients(params, step)
            each.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, resumed_parameters, strict=True))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"momentum": 1.0}, "momentum"),
        ({"ns_steps": 0}, "ns_steps"),
        ({"ns_steps": 100}, "ns_steps"),
        ({"ns_coefficients": (1.0, 2.0)}, "ns_coefficients"),
        ({"ns_coefficients": (1.0, 2.0, float("nan"))}, "ns_coefficients"),
        ({"adjust_lr": "other"}, "adjust_lr"),
        ({"ns_dtype": "float16"}, "ns_dtype"),
        ({"orthogonalize": "yes"}, "orthogonalize"),
    ],
)
def test_refuses_options_outside_their_ranges(options, name):
    with pytest.raises(ValueError, match=name):
        Muon([nn.Parameter(torch.zeros(2, 2))], **options)
    with pytest.raises(ValueError, match=name):
        Muon([{"params": nn.Parameter(torch.zeros(2, 2)), **options}])


@pytest.mark.parametrize(
    "options",
    [
        {"adamw_lr": -1.0},
        {"adamw_eps": -1.0},
        {"adamw_weight_decay": float("nan")},
        {"adamw_betas": (1.0, 0)},
    ],
)
def test_refuses_options_of_adamw_outside_their_ranges(options):
    with pytest.raises(ValueError, match=r"`(lr|eps|weight_decay|betas\[0\])`"):
        Muon([nn.Parameter(torch.zeros(2, 2))], **options)


def test_refuses_to_orthogonalize_a_vector():
    with pytest.raises(ValueError, match="number 1 of the group has 1"):
        Muon([torch.zeros(2, 2), torch.zeros(3)], orthogonalize=True)


def test_a_tensor_rate_serves_vectors_of_any_strides():
    """torch's list ops want a number; its fused kernel wants no strides."""
    ends = []
    for rate in (torch.tensor(1e-3), 1e-3):
        matrix, vector = nn.Parameter(torch.eye(4)), nn.Parameter(torch.zeros(6)[::2])
        optimizer = Muon([matrix, vector], adamw_lr=rate)
        matrix.grad, vector.grad = torch.ones(4, 4), torch.ones(3)
        optimizer.step()
        ends.append(vector.detach().clone())
    torch.testing.assert_close(*ends)


def test_autocast_around_the_step_does_not_change_the_dtype_of_products():
    ends = []
    for enabled in (True, False):
        torch.manual_seed(0)
        matrix = nn.Parameter(torch.randn(6, 4))
        matrix.grad = torch.randn(6, 4)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            Muon([matrix], ns_dtype="float32").step()
        ends.append(matrix.detach())
    assert torch.equal(*ends)
