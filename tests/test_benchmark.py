"""The counts of operations, the order of the runs, and the peers that must do what we do."""

import functools
import os
import types

import jax
import numpy as np
import pytest

import irob
from experiments import benchmark
from experiments.benchmarks import attack_groups, explanation_groups, floors, scaling, timing, training_groups
from irob.models import MODELS
from irob.models.cam_network import CAMNetwork, Conv, MaxPool


def test_operations_by_hand():
    network = CAMNetwork((Conv(3, 2, 2), Conv(5, 3)), (4, 4, 1), 2)
    first, last = 2 * (2 * 2 * 3) * (2 * 2 * 1), 2 * (2 * 2 * 2) * (3 * 3 * 3)  # the head is folded: 2 outputs instead of 5
    assert floors.forward(network).operations == first + last
    read_off = 2 * (2 * 2 * 3) * 2  # logits are one linear map of the last input
    assert floors.forward(network, maps=False).operations == first + read_off
    assert floors.attack_step(network, maps=True).operations == 2 * (first + last)
    steps = floors.training_step_cost(network, "int", batch=7, steps=3).operations
    assert steps == 7 * (first + last) * (1 + 3 * 2 + 6)


def test_a_network_that_ends_otherwise_pays_for_its_head():
    network = CAMNetwork((Conv(3, 1), MaxPool(2)), (4, 4, 1), 2)
    assert floors.forward(network).operations == 2 * 16 * 3 + 16 * 3 + 2 * 4 * 3 * 2


@pytest.mark.parametrize(("name", "giga"), [("mnist_small", 10.5), ("cifar_small", 11.9), ("cifar_wresnet", 476.0)])
def test_the_papers_steps_have_the_known_counts(name, giga):
    of = training_groups.STEPS[name]
    cost = floors.training_step_cost(irob.create(of.network, of.image_shape, 10), "int", of.batch, of.attack_steps)
    assert cost.operations / 1e9 == pytest.approx(giga, rel=0.1)


def test_a_network_that_is_no_table_of_layers_is_stepped_too(monkeypatch):
    """Ours alone; the peers are compared with ours elsewhere."""
    monkeypatch.setitem(MODELS, "tiny", lambda shape, n: irob.models.from_linen(irob.models.resnets.WideResNet(n, 10, 1), shape, n))
    monkeypatch.setitem(
        training_groups.LARGE_STEPS, "tiny", training_groups.STEPS["cifar_small"]._replace(network="tiny", batch=4, attack_steps=2)
    )
    for dtype in ("float32", "bfloat16"):
        group = training_groups.training_step_group("tiny", "adv", dtype)
        assert group.cost is None and np.isfinite(group.ours()).all()


def test_contenders_take_turns():
    order = []

    def run(name):
        order.append(name)
        return 0.5, name

    timings, returned = timing.timed({name: functools.partial(run, name) for name in ("irob", "a", "b")}, rounds=3, least=0.0)
    assert order == ["irob", "a", "b"] + ["irob", "irob", "a", "a", "b", "b"] * 3  # the first of each two does not count
    assert returned == {name: name for name in order}
    assert all(found == timing.Timing(0.5, [0.5] * 3) for found in timings.values())


def two_words(first):
    return {"one": functools.partial(str.upper, first), "two": functools.partial(str.lower, first)}


@pytest.fixture
def clock(monkeypatch):
    """`clock(1.0, 3.5)`: what the clock says, call by call."""

    def says(*times):
        monkeypatch.setattr(timing.time, "perf_counter", functools.partial(next, iter(times)))

    return says


def test_a_call_takes_the_difference_of_two_looks_at_the_clock(clock):
    clock(1.0, 3.5)
    assert timing.clocked(lambda: "found") == (2.5, "found")


def test_the_peak_is_that_of_the_fastest_product(clock):
    clock(0.0, 2.0, 5.0, 5.5, 6.0, 7.0)
    assert floors.matmul_peak(64, 3) == 2 * 64**3 / 0.5


def test_peers_run_in_a_process_of_their_own():
    with timing.Peers(two_words, ("aB",)) as peers:
        assert peers.names == ["one", "two"]
        _, returned = peers.run("two")
        assert returned == "ab"
        assert peers.process.pid != os.getpid()
    assert peers.process.exitcode == 0


def test_the_check_of_equal_accuracies_can_fail():
    assert "irob 0.500" in attack_groups.equal_accuracies({"irob": 0.5, "other": 0.505})
    with pytest.raises(RuntimeError, match="do not do the same"):
        attack_groups.equal_accuracies({"irob": 0.5, "other": 0.6})


def test_the_check_of_equal_maps_can_fail(random):
    maps = random.normal(size=(64, 7, 7))
    assert "agree" in attack_groups.equal_maps({"irob": maps, "other": maps * (1 + 1e-6)})
    with pytest.raises(RuntimeError, match="the maps differ by"):
        attack_groups.equal_maps({"irob": maps, "other": 1.01 * maps})


@pytest.mark.parametrize("what", ["ig", "grad_cam"])
def test_captums_maps_are_ours(what):
    pytest.importorskip("captum")
    group = attack_groups.explained(what)
    found = {name: run() for name, run in group.peers(*group.arguments).items()}
    assert found and "agree" in group.check({"irob": group.ours(), **found})


@pytest.mark.parametrize(
    ("peer", "of", "name"),
    [
        ("captum", explanation_groups.explanation_metric, "sensitivity"),
        ("captum", explanation_groups.explanation_metric, "infidelity"),
        ("quantus", explanation_groups.faithfulness_metric, "flipping"),
        ("quantus", explanation_groups.faithfulness_metric, "faithfulness"),
    ],
)
def test_metrics_of_the_peers_are_ours(peer, of, name):
    pytest.importorskip(peer)
    group = of(name)
    found = {each: run() for each, run in group.peers(*group.arguments).items()}
    assert found and "medians" in group.check({"irob": group.ours(), **found})


def test_the_check_of_near_medians_can_fail():
    assert "irob 1" in explanation_groups.near_medians({"irob": np.ones(3), "other": 1.1 * np.ones(3)})
    with pytest.raises(RuntimeError, match="not the same"):
        explanation_groups.near_medians({"irob": np.ones(3), "other": 1.2 * np.ones(3)})


@pytest.mark.slow
def test_scaling_times_every_variation_on_its_devices(monkeypatch):
    small = scaling.BASE._replace(batch=4, attack_steps=1)
    monkeypatch.setattr(scaling, "SCALING", {"devices": [(2, small, 2)], "classes": [(3, small._replace(num_classes=3, width=2), 1)]})
    before = os.environ.get("XLA_FLAGS")
    result = scaling.scaling(rounds=1)
    assert os.environ.get("XLA_FLAGS") == before
    assert [(row["what"], row["value"]) for row in result["scaling"]] == [("devices", 2), ("classes", 3)]
    assert [row["devices"] for row in result["scaling"]] == [2, 1]
    assert all(row["memory"] > 1e8 and row["seconds"] > 0 for row in result["scaling"])
    assert any("devices" in line for line in benchmark.lines_of(result))


def test_the_exponent_of_a_power_is_found():
    rows = [{"value": n, "seconds": 3.0 * n**1.5} for n in (1, 2, 8)]
    assert scaling.exponent(rows) == pytest.approx(1.5) and scaling.exponent(rows[:1]) is None


def test_a_wider_network_has_more_channels_everywhere_but_in_its_last_layer():
    wide = scaling.BASE._replace(width=3, num_classes=7).model()
    assert [layer.channels for layer in wide.layers] == [48, 96, 100] and wide.num_classes == 7
    assert training_groups.batch_of(scaling.BASE._replace(num_classes=2))[1].max() == 1


def test_a_variation_takes_its_median(monkeypatch):
    times, sent = iter([3.0, 1.0, 2.0]), []
    monkeypatch.setattr(scaling, "our_step", lambda of, method: lambda: None)
    monkeypatch.setattr(scaling, "clocked", lambda step: (next(times), None))
    scaling.measured_in_process(types.SimpleNamespace(send=sent.append), scaling.BASE, 3)
    ((devices, seconds, memory),) = sent
    assert (devices, seconds) == (jax.device_count(), 2.0) and 1e8 < memory < 1e11


def peers():
    pytest.importorskip("torch")
    from experiments.benchmarks import peers

    return peers


@pytest.mark.parametrize(("name", "shape"), [("small", (28, 28, 1)), ("pool", (28, 28, 1)), ("wresnet", (32, 32, 3))])
def test_the_peers_network_is_ours(name, shape, random):
    torch_side = peers()
    network = irob.create(name, shape, 10)
    params = network.initial_params()
    x = random.random((3, *shape)).astype(np.float32)
    ours = jax.vmap(lambda z: network.explain(params, z))(x)
    for folded in (False, True):
        theirs = torch_side.TorchNetwork(network, params, folded)
        np.testing.assert_allclose(theirs.maps(torch_side.images(x)).detach().permute(0, 2, 3, 1), ours.maps, atol=2e-4)
        np.testing.assert_allclose(theirs(torch_side.images(x)).detach(), ours.logits, atol=2e-5)


@pytest.mark.parametrize("make", [lambda: irob.models.resnets.PreActResNet(10, 4), lambda: irob.models.resnets.WideResNet(10, 10, 1)])
def test_the_peers_resnet_is_ours(make, random):
    torch_side = peers()
    module = make()
    network = irob.models.from_linen(module, (32, 32, 3), 10)
    variables = network.initial_params()
    move = lambda leaf: (leaf + 0.1 * random.random(leaf.shape)).astype(np.float32)
    variables = {**variables, "batch_stats": jax.tree.map(move, variables["batch_stats"])}
    x = random.random((3, 32, 32, 3)).astype(np.float32)
    ours = jax.vmap(lambda z: network.explain(variables, z))(x)
    theirs = torch_side.TorchResNet(module, variables).eval()
    np.testing.assert_allclose(theirs.maps(torch_side.images(x)).detach().permute(0, 2, 3, 1), ours.maps, atol=1e-4)
    np.testing.assert_allclose(theirs(torch_side.images(x)).detach(), ours.logits, atol=1e-5)


def test_the_peers_objective_is_ours(small, random):
    torch_side = peers()
    import torch

    network, params = small
    x, moved = random.random((2, 4, 28, 28, 1)).astype(np.float32)
    labels = np.array([1, 5, 0, 9])
    explain = lambda z: network.explain(params, z)
    change = [irob.defenses.interpretation_change(explain(a), explain(b), t) for a, b, t in zip(x, moved, labels, strict=True)]
    model = torch_side.TorchNetwork(network, params)
    theirs = torch_side.interpretation_change(*(model.maps(torch_side.images(z)) for z in (x, moved)), torch.tensor(labels))
    np.testing.assert_allclose(theirs.item(), np.mean(change), rtol=1e-4)


def test_the_peers_attack_is_ours(small, random):
    torch_side = peers()
    import torch

    network, params = small
    x, labels = random.random((4, 28, 28, 1)).astype(np.float32), np.array([1, 5, 0, 9])
    sizes = irob.constant_steps(0.01, 5)
    attack = lambda z, t: irob.pgd(lambda v: irob.cross_entropy(network.explain(params, v).logits, t), irob.LInf(0.03), z, step_sizes=sizes)
    theirs = torch_side.pgd(
        torch_side.TorchNetwork(network, params), torch_side.images(x), torch.tensor(labels), eps=0.03, step_size=0.01, steps=5
    )
    difference = np.abs(np.asarray(jax.vmap(attack)(x, labels)) - theirs.permute(0, 2, 3, 1).numpy())
    assert np.mean(difference > 1e-5) < 0.01  # signs of gradients that are nearly zero


@pytest.mark.parametrize("method", ["int", "adv", "normal"])
def test_the_peers_training_lowers_its_loss(method, random):
    torch_side = peers()
    import torch

    network = irob.create("small", (28, 28, 1), 10)
    x, labels = torch_side.images(random.random((8, 28, 28, 1)).astype(np.float32)), torch.arange(8)
    step = torch_side.make_step(
        torch_side.TorchNetwork(network, network.initial_params()), method, eps=0.05, step_size=0.02, steps=3, learning_rate=1e-3
    )
    losses = [float(step(x, labels)) for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]


def test_the_step_in_tensorflow_is_ours(small, random):
    pytest.importorskip("tensorflow")
    from experiments.benchmarks import tensorflow_peers

    network, params = small
    x, moved = random.random((2, 4, 28, 28, 1)).astype(np.float32)
    labels = np.array([1, 5, 0, 9], np.int32)
    maps = tensorflow_peers.maps_of(network, params)
    explain = lambda z: network.explain(params, z)
    np.testing.assert_allclose(maps(x), jax.vmap(lambda z: explain(z).maps)(x), atol=2e-4)
    change = [irob.defenses.interpretation_change(explain(a), explain(b), t) for a, b, t in zip(x, moved, labels, strict=True)]
    np.testing.assert_allclose(tensorflow_peers.interpretation_change(maps(x), maps(moved), labels), np.mean(change), rtol=1e-4)
    step = tensorflow_peers.make_step(network, params, eps=0.05, step_size=0.02, steps=3, learning_rate=1e-3)
    losses = [float(step(x, labels)) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_steps_of_a_peer_are_repeated():
    calls = iter(range(9))
    assert training_groups.loss_after(lambda: next(calls), 3) == 2 and next(calls) == 3
