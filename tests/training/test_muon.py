"""training/muon.py: orthogonal steps against the singular value decomposition, whole steps against
torch's Muon and a restatement, and SGD for the other parameters."""

import copy

import pytest
import torch
from torch import nn

from training import muon, parts, recipes

pytestmark = pytest.mark.usefixtures("one_thread")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 27), (27, 8), (16, 16), (1, 9)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape):
    matrix = normal(*shape)
    found = muon.orthogonal(matrix)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    values = u.T @ found @ vh.T
    assert found.shape == shape
    assert torch.allclose(values, torch.diag(values.diagonal()), atol=2e-3)
    assert (values.diagonal() > 0.6).all() and (values.diagonal() < 1.3).all()


def test_the_size_of_a_gradient_does_not_count():
    matrix = normal(6, 10)
    assert torch.allclose(muon.orthogonal(matrix), muon.orthogonal(1e-3 * matrix), atol=1e-3)
    assert not muon.orthogonal(torch.zeros(6, 10)).any()


def test_bfloat16_is_near_and_the_result_keeps_the_dtype_of_the_input():
    matrix = normal(16, 64)
    rough = muon.orthogonal(matrix, torch.bfloat16)
    assert rough.dtype == torch.float32
    assert (rough - muon.orthogonal(matrix)).norm() < 0.03 * rough.norm()


def test_a_matrix_step_points_where_that_of_torch_does():
    """torch.optim.Muon has no norm to keep, averages in place of summing, and computes in bfloat16:
    of the first step the direction is the same."""
    theirs = nn.Parameter(normal(12, 30))
    before = theirs.detach().clone()
    gradient = normal(12, 30, seed=1)
    theirs.grad = gradient.clone()
    torch.optim.Muon([theirs], lr=1.0, weight_decay=0.0).step()
    step = before - theirs.detach()
    ours = muon.orthogonal(gradient)
    assert torch.cosine_similarity(step.flatten(), ours.flatten(), dim=0) > 0.999


def restated(weights, gradients, lr, momentum):
    """Three lines of the module's docstring, in float64 and with an exact decomposition's vectors:
    -> the weights after all steps."""
    buffer = torch.zeros_like(weights)
    for gradient in gradients:
        buffer = momentum * buffer + gradient
        step = muon.orthogonal((gradient + momentum * buffer).flatten(1), torch.float64)
        weights = weights * len(weights) ** 0.5 / weights.norm()
        weights = weights - lr * step.reshape(weights.shape)
    return weights


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_a_convolution_moves_by_the_rule_and_the_rest_by_sgd(dtype, atol):
    """In float32, and as on machines that multiply bfloat16, to the digits that it has."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    network = network.to(memory_format=torch.channels_last)
    plain = copy.deepcopy(network)
    recipe = recipes.Recipe(
        epochs=1, lr=0.1, weight_decay=1e-2, optimizer="muon", nesterov=True, muon_lr=0.3
    )
    ours = parts.make_optimizer(recipe, network)
    ours.dtype = dtype
    sgd = torch.optim.SGD(plain.parameters(), 0.1, 0.9, weight_decay=1e-2, nesterov=True)
    start = network[0].weight.detach().double()
    gradients = []
    for step in range(3):
        for optimizer, model in ((ours, network), (sgd, plain)):
            optimizer.zero_grad()
            for number, parameter in enumerate(model.parameters()):
                parameter.grad = normal(*parameter.shape, seed=10 * step + number)
        gradients.append(network[0].weight.grad.double())
        ours.step()
        sgd.step()
    expected = restated(start, gradients, lr=0.3, momentum=0.6)
    assert torch.allclose(network[0].weight.double(), expected, atol=atol)
    for name in ("0.bias", "1.weight", "1.bias", "3.weight", "3.bias"):
        theirs = plain.get_parameter(name)
        assert torch.allclose(network.get_parameter(name), theirs, atol=1e-6), name


def test_weights_that_are_frozen_stay_and_weights_without_a_gradient_too():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    network[0].weight.requires_grad_(False)
    recipe = recipes.RECIPES["fast"]
    optimizer = parts.make_optimizer(recipe, network)
    *_, filters = optimizer.param_groups
    assert filters["params"] == [network[1].weight] and filters["orthogonal"]
    before = copy.deepcopy(network.state_dict())
    optimizer.step()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_every_parameter_is_in_one_group():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    optimizer = parts.make_optimizer(recipes.RECIPES["fast"], network)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())


def test_a_state_that_is_loaded_goes_on_to_the_same_weights():
    def steps(network, optimizer, seeds):
        for seed in seeds:
            network.weight.grad = normal(*network.weight.shape, seed=seed)
            optimizer.step()

    def fresh():
        torch.manual_seed(3)
        network = nn.Conv2d(3, 4, 3, bias=False)
        return network, parts.make_optimizer(recipes.RECIPES["fast"], network)

    whole, optimizer = fresh()
    steps(whole, optimizer, range(4))
    first, before = fresh()
    steps(first, before, range(2))
    second, after = fresh()
    second.load_state_dict(first.state_dict())
    after.load_state_dict(before.state_dict())
    steps(second, after, range(2, 4))
    assert torch.equal(second.weight, whole.weight)


def test_a_network_without_convolutions_is_refused():
    with pytest.raises(ValueError, match="--optimizer muon moves convolutions, and this network"):
        parts.make_optimizer(recipes.RECIPES["fast"], nn.Linear(3, 2))
