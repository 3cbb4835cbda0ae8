"""ResNets: sizes, a forward pass in NumPy, training and evaluation at tiny width; weights of PyTorch."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import scipy.signal

import irob
from experiments.runtime.errors import UserError
from experiments.runtime.variables import read_variables
from irob.models import MODELS, PreActResNet, WideResNet, from_linen
from irob.models.resnets import group_norm
from irob.models.torch_weights import from_state_dict

X = np.random.default_rng(0).uniform(size=(8, 8, 3)).astype(np.float32)


def tiny_preact(input_shape, num_classes):
    """For `config.network`: eight features, a block in each of two groups."""
    return PreActResNet(num_classes, width=8, blocks=(1, 1, 0, 0))


@pytest.mark.parametrize(("make", "expected"), [(PreActResNet, 11_172_170), (WideResNet, 36_479_194)])
def test_numbers_of_parameters(make, expected):
    """Those of the implementations that RobustBench has, with 10 classes."""
    for options in ({}, {"norm": group_norm}, {"rectifier": jax.nn.silu}):
        shapes = jax.eval_shape(lambda options=options: make(10, **options).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == expected
    assert {"preact_resnet_18", "preact_resnet_18_group", "wide_resnet_28_10_swish"} < set(MODELS)
    with pytest.raises(ValueError, match="the depth of a WideResNet is 6 n \\+ 4, got 27"):
        WideResNet(10, depth=27)


def drawn(model, seed=1):
    """Variables as after training: nothing is 0 or 1."""
    random = np.random.default_rng(seed)
    draw = lambda leaf: (random.normal(size=leaf.shape) * 0.3 if leaf.ndim > 1 else random.uniform(0.5, 1.5, leaf.shape)).astype(np.float32)
    return jax.tree.map(draw, model.initial_params(0))


def conv_in_numpy(x, kernel, stride):
    """Correlation by scipy with (k - 1) / 2 zeros around."""
    pad = (kernel.shape[0] - 1) // 2
    x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    planes = [
        sum(scipy.signal.correlate2d(x[..., i], kernel[..., i, o], "valid") for i in range(x.shape[-1])) for o in range(kernel.shape[-1])
    ]
    return np.stack(planes, axis=-1)[::stride, ::stride]


def forward_in_numpy(variables, x, blocks, rectifier, projects_input):
    """blocks: (name, stride)."""
    p, statistics = variables["params"], variables["batch_stats"]

    def norm(x, params, running):
        return (x - running["mean"]) / np.sqrt(running["var"] + 1e-5) * params["scale"] + params["bias"]

    h = conv_in_numpy(x, p["conv1"]["kernel"], 1)
    for name, stride in blocks:
        params, running = p[name], statistics[name]
        a = rectifier(norm(h, params["bn1"], running["bn1"]))
        shortcut = conv_in_numpy(h if projects_input else a, params["shortcut"]["kernel"], stride) if "shortcut" in params else h
        a = conv_in_numpy(a, params["conv1"]["kernel"], stride)
        h = shortcut + conv_in_numpy(rectifier(norm(a, params["bn2"], running["bn2"])), params["conv2"]["kernel"], 1)
    h = rectifier(norm(h, p["norm"], statistics["norm"]))
    return h @ p["head"]["kernel"] + p["head"]["bias"]


@pytest.mark.parametrize(
    ("module", "blocks", "rectifier"),
    [
        (PreActResNet(3, width=4, blocks=(2, 1, 0, 0)), [("layer1_0", 1), ("layer1_1", 1), ("layer2_0", 2)], lambda z: np.maximum(z, 0)),
        (WideResNet(3, depth=10, widen=1), [("block1_0", 1), ("block2_0", 2), ("block3_0", 2)], lambda z: np.maximum(z, 0)),
        (
            PreActResNet(3, width=4, blocks=(1, 1, 0, 0), rectifier=jax.nn.silu, projects_input=True),
            [("layer1_0", 1), ("layer2_0", 2)],
            lambda z: z / (1 + np.exp(-z)),
        ),
    ],
)
def test_maps_and_logits_are_those_written_in_numpy(module, blocks, rectifier):
    model = from_linen(module, (8, 8, 3), 3)
    variables = drawn(model)
    expected = forward_in_numpy(variables, X.astype(np.float64), blocks, rectifier, module.projects_input)
    for explain in (model.frozen(variables), lambda x: model.explain(variables, x)):
        maps, logits = explain(X)
        np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(logits, expected.mean((0, 1)), rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_inputs_are_standardized_on_request():
    plain, own = (
        from_linen(PreActResNet(3, 4, (1, 0, 0, 0), **o), (8, 8, 3), 3) for o in ({}, {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.1)})
    )
    variables = drawn(plain)
    z = (X - np.array([0.4, 0.5, 0.6], np.float32)) / np.array([0.2, 0.3, 0.1], np.float32)
    np.testing.assert_allclose(own.explain(variables, X).logits, plain.explain(variables, z).logits, rtol=1e-4)


# --- weights of PyTorch ---------------------------------------------------------------------------------------------------------------------


def state_dict_of(variables, renamed):
    """Our variables under PyTorch's names and in its order, by rules written apart from those that read them."""
    state = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        _, *modules, name = (key.key for key in path)
        module = ".".join(modules)
        for ours, theirs in renamed:
            module = re.sub(ours, theirs, module)
        leafs = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
        value = np.transpose(leaf, (3, 2, 0, 1)) if leaf.ndim == 4 else leaf.T
        state[f"{module}.{leafs[name]}"] = np.ascontiguousarray(value)
        if name == "mean":
            state[f"{module}.num_batches_tracked"] = np.array(7)
    return state


PREACT = ((r"^(layer\d)_(\d)", r"\1.\2"), (r"shortcut$", "shortcut.0"), ("^norm$", "bn"), ("^head$", "linear"))
WIDE = ((r"^(block\d)_(\d)", r"module.\1.layer.\2"), (r"shortcut$", "convShortcut"), ("^norm$", "module.bn1"), ("^head$", "module.fc"))


@pytest.mark.parametrize(("module", "renamed"), [(PreActResNet(3, 4, (1, 1, 0, 0)), PREACT), (WideResNet(3, 10, 1), WIDE)])
def test_a_state_dict_becomes_our_variables(module, renamed, tmp_path):
    model = from_linen(module, (8, 8, 3), 3)
    variables, state = drawn(model), {}
    state = state_dict_of(variables, renamed)
    found = from_state_dict(state, model.initial_params(0))
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    safetensors.numpy.save_file(state, tmp_path / "theirs.safetensors")
    jax.tree.map(np.testing.assert_array_equal, read_variables(str(tmp_path / "theirs.safetensors"), model.initial_params(0)), variables)
    first = next(iter(state))
    for change, message in (
        ({first: None}, "the state_dict has no array for "),
        ({first: np.zeros(3)}, r"of the state_dict is \(3,\) in our order"),
        ({"other.weight": np.zeros(3)}, "has an array other.weight that this network does not have"),
        ({"other.momentum": np.zeros(3)}, "has an array 'other.momentum', which is no weight, bias or running statistic"),
    ):
        changed = {name: value for name, value in {**state, **change}.items() if value is not None}
        with pytest.raises(ValueError, match=message):
            from_state_dict(changed, variables)
        if "momentum" not in message:
            np.savez(tmp_path / "changed.npz", **changed)
            with pytest.raises(UserError, match=message):
                read_variables(str(tmp_path / "changed.npz"), variables)


# --- beside PyTorch, where it is installed --------------------------------------------------------------------------------------------------


def torch_networks(torch):
    """The two architectures written in PyTorch as their authors' repositories lay them out."""
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self, inputs, features, stride, wide):
            super().__init__()
            self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(features)
            self.conv1 = nn.Conv2d(inputs, features, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
            self.name = "convShortcut" if wide else "shortcut"
            if stride != 1 or inputs != features:
                projection = nn.Conv2d(inputs, features, 1, stride, 0, bias=False)
                setattr(self, self.name, projection if wide else nn.Sequential(projection))

        def forward(self, x):
            a = functional.relu(self.bn1(x))
            shortcut = getattr(self, self.name)(a) if hasattr(self, self.name) else x
            return self.conv2(functional.relu(self.bn2(self.conv1(a)))) + shortcut

    class PreAct(nn.Module):
        def __init__(self, width, classes):
            super().__init__()
            self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
            sizes = [width, width, 2 * width, 4 * width, 8 * width]
            for i in range(4):
                blocks = [Block(sizes[i] if j == 0 else sizes[i + 1], sizes[i + 1], 2 if i and not j else 1, False) for j in range(2)]
                setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            self.bn, self.linear = nn.BatchNorm2d(8 * width), nn.Linear(8 * width, classes)

        def forward(self, x):
            for layer in (self.conv1, self.layer1, self.layer2, self.layer3, self.layer4):
                x = layer(x)
            return self.linear(functional.relu(self.bn(x)).mean((2, 3)))

    class Group(nn.Module):
        def __init__(self, inputs, features, count, stride):
            super().__init__()
            self.layer = nn.Sequential(
                *[Block(inputs if j == 0 else features, features, stride if j == 0 else 1, True) for j in range(count)]
            )

        def forward(self, x):
            return self.layer(x)

    class Wide(nn.Module):
        def __init__(self, depth, widen, classes):
            super().__init__()
            count, sizes = (depth - 4) // 6, [16, 16 * widen, 32 * widen, 64 * widen]
            self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
            self.block1, self.block2, self.block3 = (Group(sizes[i], sizes[i + 1], count, 2 if i else 1) for i in range(3))
            self.bn1, self.fc = nn.BatchNorm2d(sizes[3]), nn.Linear(sizes[3], classes)

        def forward(self, x):
            for layer in (self.conv1, self.block1, self.block2, self.block3):
                x = layer(x)
            return self.fc(functional.relu(self.bn1(x)).mean((2, 3)))

    return PreAct, Wide


@pytest.fixture(scope="module")
def in_torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    preact, wide = torch_networks(torch)
    return torch, {"preact_resnet_18": preact(64, 10), "wide_resnet_28_10": wide(28, 10, 10)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["preact_resnet_18", "wide_resnet_28_10"])
def test_parameters_and_logits_are_pytorchs(in_torch, name, tmp_path):
    torch, networks = in_torch
    theirs, ours = networks[name], MODELS[name]((32, 32, 3), 10)
    x = np.random.default_rng(1).uniform(size=(4, 32, 32, 3)).astype(np.float32)
    theirs.train()
    with torch.no_grad():
        theirs(torch.tensor(x).permute(0, 3, 1, 2))  # running statistics that are not 0 and 1
        theirs.eval()
        expected = theirs(torch.tensor(x).permute(0, 3, 1, 2)).numpy()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    variables = read_variables(str(tmp_path / "theirs.pt"), ours.initial_params(0))
    assert sum(p.numel() for p in theirs.parameters()) == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    found = jax.jit(jax.vmap(lambda x: ours.explain(variables, x).logits))(x)
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.mark.filterwarnings("ignore")
def test_our_pgd_finds_what_torchattacks_finds_on_a_converted_network(in_torch):
    """A small PreActResNet, a few steps of training in PyTorch; PGD of 20 steps from the images on both sides: equal within one image."""
    torch, _ = in_torch
    torchattacks = pytest.importorskip("torchattacks")
    from experiments import data

    torch.manual_seed(1)
    theirs = torch_networks(torch)[0](4, 10)
    split = data.load_split("digits", "train").first(400)
    images = np.repeat(split.images / np.float32(255), 3, axis=-1)
    batch, labels = torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(split.labels.astype(np.int64))
    optimizer = torch.optim.Adam(theirs.parameters(), 3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(theirs(batch), labels).backward()
        optimizer.step()
    theirs.eval()
    ours = from_linen(PreActResNet(10, 4), (28, 28, 3), 10)
    explain = ours.frozen(from_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()}, ours.initial_params(0)))
    x, t, eps = images[:100], split.labels[:100], 0.03

    def attacked(x, label):
        objective = lambda z: irob.cross_entropy(explain(z).logits, label)
        x_adv = irob.pgd(objective, irob.LInf(eps), x, step_sizes=irob.constant_steps(eps / 8, 20), start=x)
        return jnp.argmax(explain(x_adv).logits)

    found = np.mean(jax.jit(jax.vmap(attacked))(x, t) == t)
    attack = torchattacks.PGD(theirs, eps=eps, alpha=eps / 8, steps=20, random_start=False)
    x_adv = attack(batch[:100], labels[:100])
    with torch.no_grad():
        expected = (theirs(x_adv).argmax(1) == labels[:100]).float().mean().item()
        clean = (theirs(batch[:100]).argmax(1) == labels[:100]).float().mean().item()
    assert abs(found - expected) <= 0.01 + 1e-6 and expected < clean - 0.05


# --- training -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tiny_resnet_trains_by_the_recipe_and_is_evaluated(commands, tmp_path):
    """`trades_wrn` as it stands, but for the width, on digits."""
    tests = {"PYTHONPATH": "tests"}
    config = ("--config", "cifar10:trades,trades_wrn,tiny", "--config.dataset=digits", "--config.network=test_resnets:tiny_preact")
    commands.run("train", *config, "--workdir", tmp_path, **tests)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["optimizer"][0] == "sgd" and config["ema_decay"] > 0 and config["augment"] and config["defense"]["beta"] == 6.0
    commands.run(
        "evaluate", "--workdir", tmp_path, "--parameters", "averaged", "--eps", "0,8/255", "--steps", "5", "--num_examples", "16", **tests
    )
    result = json.loads((tmp_path / "standard_latest_parameters_averaged.json").read_text())
    assert result["method"] == "trades (averaged)" and result["network"] == "test_resnets:tiny_preact"
