"""Models of one's own: a linen module, a plain function; equal to the table form of the same network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import irob
from experiments.benchmarks.own_groups import as_users_write_it
from irob.maps import differentiable, explainer, shape_of_maps
from irob.models import from_function, from_linen
from irob.types import Model


class Small(nn.Module):
    """The paper's small network as a user writes it."""

    classes: int = 10
    bias: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(16, (4, 4), 2, name="conv_0")(x))
        x = nn.relu(nn.Conv(32, (4, 4), 2, name="conv_1")(x))
        x = nn.Conv(100, (7, 7), name="conv_2")(x)
        return nn.Dense(self.classes, use_bias=self.bias, name="head")(x.mean(axis=(-3, -2)))


@pytest.fixture(scope="module")
def both(small):
    network, params = small
    return network, from_linen(Small(), (28, 28, 1), 10, features="conv_2"), params, {"params": params}


KEY = jax.random.key(0)
X = np.random.default_rng(0).uniform(size=(28, 28, 1)).astype(np.float32)


def assert_close(a, b, rtol=2e-5):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(one, other, atol=rtol * max(np.abs(other).max(), 1e-3))


@pytest.mark.parametrize("readout", ["cam", "grad_cam_plus_plus", "representation"])
def test_a_linen_network_is_the_table_form_of_the_same_weights(both, readout):
    network, own, params, variables = both
    read = irob.maps.READOUTS[readout]
    expected = jax.jit(lambda p, x: network.explain(p, x, read))(params, X)
    assert_close(jax.jit(lambda p, x: own.explain(p, x, read))(variables, X), expected)
    assert_close(jax.jit(own.frozen(variables, read))(X), expected)


def test_its_gradients_are_those_of_the_table_form(both):
    network, own, params, variables = both

    def gradients(model, params):
        loss = lambda params, x: jnp.sum(jnp.sin(model.explain(params, x).maps)) + irob.cross_entropy(model.explain(params, x).logits, 3)
        return jax.jit(jax.grad(loss, (0, 1)))(params, X)

    of_own, of_x = gradients(own, variables)
    assert_close((of_own["params"], of_x), gradients(network, params))


@pytest.mark.parametrize("name", ["small", "wresnet"])
def test_the_papers_networks_in_plain_linen_are_ours(name):
    """As the benchmark has them: values, gradients in the image and in the weights, in the frozen form, too."""
    table, own, params = as_users_write_it(name)
    x = np.random.default_rng(5).uniform(size=table.input_shape).astype(np.float32)
    assert_close(own.explain({"params": params}, x), table.explain(params, x))
    loss = lambda explain: lambda x: jnp.sum(jnp.sin(explain(x).maps)) + irob.cross_entropy(explain(x).logits, 3)
    gradients = [jax.jit(jax.grad(loss(f)))(x) for f in (own.frozen({"params": params}), table.frozen(params))]
    assert_close(*gradients, rtol=1e-4)
    of_params = jax.jit(jax.grad(lambda p: loss(lambda x: own.explain({"params": p}, x))(x)))(params)
    expected = jax.jit(jax.grad(lambda p: loss(lambda x: table.explain(p, x))(x)))(params)
    assert_close(of_params, expected, rtol=1e-4)


def test_its_smooth_form_is_that_of_the_table(both):
    network, own, params, variables = both
    assert_close(jax.jit(own.smooth().explain)(variables, X), jax.jit(network.smooth().explain)(params, X))
    saliency = lambda model, params: jax.jit(explainer("saliency", model, differentiable(params), np.array([3])))(X)
    assert_close(saliency(own, variables), saliency(network, params))


def test_its_frozen_form_refuses_gradients_in_variables(both):
    _, own, _, variables = both
    with pytest.raises(ValueError, match="gradients with respect to its input only"):
        jax.grad(lambda v: own.frozen(v)(X).logits[0])(variables)
    assert own.frozen(variables, dtype=jnp.bfloat16)(X).logits.dtype == jnp.float32


def test_a_bias_of_the_head_keeps_maps_complete():
    own = from_linen(Small(bias=True), (28, 28, 1), 10, features="conv_2")
    variables = own.initial_params()
    variables["params"]["head"]["bias"] = np.arange(10, dtype=np.float32)
    maps, logits = own.explain(variables, X)
    np.testing.assert_allclose(logits, Small(bias=True).apply(variables, X[None])[0], rtol=1e-5)
    np.testing.assert_allclose(maps.mean(axis=(0, 1)), logits, atol=1e-4)
    assert own.head_kernel(variables).shape == (101, 10) and shape_of_maps("representation", own, variables) == (7, 7, 101)


class Oblong(nn.Module):
    """One image at a time, normalization inside, features sown after the rectifier, another name for the head, batch statistics."""

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Conv(8, (3, 3), strides=(2, 1))((x - 0.5) / 0.25)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        self.sow("intermediates", "last", x)
        return nn.Dense(2, name="classifier")(jnp.mean(x, axis=(0, 1)))


def test_other_names_and_shapes_and_batch_statistics():
    own = from_linen(Oblong(), (6, 9, 3), 2, features="last", head="classifier")
    variables = own.initial_params(seed=1)
    assert set(variables) == {"params", "batch_stats"} and own.keeps_statistics() and isinstance(own, Model) and not own.batched
    x = np.random.default_rng(1).uniform(size=(6, 9, 3)).astype(np.float32)
    maps, logits = own.explain(variables, x)
    np.testing.assert_allclose(logits, Oblong().apply(variables, x, train=False), rtol=1e-5)
    np.testing.assert_allclose(maps.mean(axis=(0, 1)), logits, atol=1e-5)
    assert maps.shape == (3, 9, 2)


def test_what_is_no_such_network_is_refused():
    with pytest.raises(ValueError, match="Small must return 9 logits"):
        from_linen(Small(), (28, 28, 1), 9, features="conv_2")
    with pytest.raises(ValueError, match="the head of Small does not read its features: it takes 100 channels, they have 32"):
        from_linen(Small(), (28, 28, 1), 10, features="conv_1")
    for names in ({}, {"features": "conv_2", "head": "classifier"}):
        with pytest.raises(ValueError, match=r"Small must have one submodule or sown value .* or features=None"):
            from_linen(Small(), (28, 28, 1), 10, **names)


class Rectified(nn.Module):
    """Its features are not what is averaged."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="features")(x))
        return nn.Dense(3, name="head")(x.mean(axis=(-3, -2)))


def test_features_that_are_not_averaged_are_refused():
    with pytest.raises(ValueError, match=r"the logits of Rectified are not mean\(A\) W \+ b of its features"):
        from_linen(Rectified(), (8, 8, 1), 3)


def test_without_a_feature_map_there_are_logits_and_maps_on_the_pixels():
    own = from_linen(Small(), (28, 28, 1), 10, features=None)
    variables = own.initial_params()
    assert own.explain(variables, X).maps is None
    with pytest.raises(ValueError, match="the network has no such maps: it does not end in the spatial mean"):
        shape_of_maps("cam", own, variables)
    assert shape_of_maps("saliency", own, variables) == (28, 28, 10)


def test_a_plain_function():
    weights = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    own = from_function(lambda w, x: x.reshape(-1) @ w, lambda seed: weights, (2, 2, 3), 3)
    x = np.random.default_rng(1).uniform(size=(2, 2, 3)).astype(np.float32)
    assert isinstance(own, Model) and own.explain(weights, x).maps is None
    maps, logits = explainer("gradient_x_input", own, differentiable(weights))(x)
    np.testing.assert_allclose(maps.sum(axis=(0, 1)), logits, rtol=1e-5)  # linear without a constant: complete
    with_maps = from_function(lambda w, x: (x @ w[:3], x.mean(axis=(0, 1)) @ w[:3]), lambda seed: weights, (2, 2, 3), 3)
    assert shape_of_maps("cam", with_maps, weights) == (2, 2, 3)
    with pytest.raises(ValueError, match="one kind of maps"):
        with_maps.explain(weights, x, irob.maps.READOUTS["representation"])
    with pytest.raises(ValueError, match="the function must return 4 logits"):
        from_function(lambda w, x: x.reshape(-1) @ w, lambda seed: weights, (2, 2, 3), 4)
    with pytest.raises(ValueError, match="no linear layer"):
        own.head_kernel(weights)


def test_images_of_another_shape_or_type_are_refused(both, unchecked):
    _, own, _, variables = both
    with pytest.raises(ValueError, match=r"lift it to batches with jax\.vmap"):
        own.explain(variables, np.zeros((2, 28, 28, 1), np.float32)[0, :14])
    with pytest.raises(ValueError, match="divide uint8 pixels by 255"):
        own.frozen(variables)(np.zeros((28, 28, 1), np.uint8))


class Normalized(nn.Module):
    """Two convolutions with BatchNorm."""

    classes: int = 3

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Conv(8, (3, 3), strides=2)(x)))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Conv(17, (3, 3))(x))
        self.sow("intermediates", "features", x)
        return nn.Dense(self.classes, name="head")(x.mean(axis=(-3, -2)))


def make_normalized(input_shape, num_classes):
    """For `config.network`."""
    return Normalized(num_classes)


class Dropped(nn.Module):
    """A linear classifier of the mean color, with dropout."""

    classes: int

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dropout(0.5, deterministic=not train)(nn.Conv(4, (1, 1), name="features")(x))
        return nn.Dense(self.classes, name="head")(x.mean(axis=(-3, -2)))


class Training(nn.Module):
    """BatchNorm behind a flag of another name, or behind none."""

    classes: int

    @nn.compact
    def __call__(self, x, training=False):
        x = nn.BatchNorm(use_running_average=not training)(nn.Conv(4, (1, 1), name="conv")(x))
        self.sow("intermediates", "features", x)
        return nn.Dense(self.classes, name="head")(x.mean(axis=(-3, -2)))


class Without(Training):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (1, 1), name="conv")(x))
        self.sow("intermediates", "features", x)
        return nn.Dense(self.classes, name="head")(x.mean(axis=(-3, -2)))


def make_training(input_shape, num_classes):
    """For `config.network`."""
    return Training(num_classes)


def make_without(input_shape, num_classes):
    """For `config.network`."""
    return Without(num_classes)


def make_dropped(input_shape, num_classes):
    """For `config.network`."""
    return Dropped(num_classes)


@pytest.fixture(scope="module")
def normalized():
    own = from_linen(Normalized(), (8, 8, 2), 3)
    x = np.random.default_rng(2).uniform(size=(12, 8, 8, 2)).astype(np.float32)
    return own, own.initial_params(seed=3), x, np.arange(12) % 3


def batched(variables, x):
    logits, state = Normalized().apply(variables, x, train=True, mutable=["batch_stats"])
    return logits, state["batch_stats"]


def test_training_one_image_at_a_time_is_flaxs_own_batch_norm_on_the_batch(normalized):
    own, variables, x, labels = normalized
    expected, statistics = batched(variables, x)
    of_image = lambda v, x: own.training(v, x, irob.maps.READOUTS["cam"], ("examples",), KEY)
    maps, logits = jax.jit(jax.vmap(of_image, (None, 0), axis_name="examples"))(variables, x)
    assert_close(logits, expected)
    np.testing.assert_allclose(maps.mean(axis=(1, 2)), logits, atol=1e-5)
    update = jax.vmap(lambda x: own.updated_statistics(variables, x, ("examples",), KEY), out_axes=None, axis_name="examples")
    assert_close(jax.jit(update)(x), statistics)

    def loss(explain_all):
        return lambda v: jnp.mean(jax.vmap(irob.cross_entropy)(explain_all(v), labels))

    ours = jax.jit(jax.grad(loss(lambda v: jax.vmap(of_image, (None, 0), axis_name="examples")(v, x).logits)))(variables)
    theirs = jax.jit(jax.grad(loss(lambda v: batched(v, x)[0])))(variables)
    assert_close(ours["params"], theirs["params"], rtol=1e-4)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(ours["batch_stats"]))


def test_the_smooth_form_leaves_the_variance_alone(normalized):
    """A network without relu is its own smooth form, in training, too: flax keeps the variance positive by a maximum."""
    x = normalized[2]

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3), name="conv")(x))
            return nn.Dense(3, name="head")(x.mean(axis=(-3, -2)))

    linear = from_linen(Linear(), (8, 8, 2), 3, features=None)
    variables = linear.initial_params()
    of = lambda model: jax.vmap(lambda x: model.training(variables, x, irob.maps.READOUTS["cam"], ("n",), KEY).logits, axis_name="n")(x)
    assert_close(of(linear.smooth()), of(linear))


def test_both_images_of_a_loss_have_statistics_of_their_own(normalized):
    own, variables, x, labels = normalized
    x_adv = np.clip(x + 0.3, 0, 1)
    defense = irob.DEFENSES["trades"](beta=2.0)

    def one(x, x_adv, label):
        return defense.outer(lambda z: own.training(variables, z, irob.maps.READOUTS["cam"], ("examples",), KEY), x, x_adv, label)

    found = jnp.mean(jax.jit(jax.vmap(one, axis_name="examples"))(x, x_adv, labels))
    clean, adversarial = batched(variables, x)[0], batched(variables, x_adv)[0]
    expected = jnp.mean(jax.vmap(irob.cross_entropy)(clean, labels) + 2 * jax.vmap(irob.losses.kl_divergence)(clean, adversarial))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize("shape", [(12, 8, 1), (8, 12, 3)])
def test_two_to_a_thousand_classes_and_images_that_are_not_square(classes, shape):
    own = from_linen(Normalized(classes), shape, classes)
    variables = own.initial_params()
    x = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    maps, logits = jax.jit(own.frozen(variables))(x)
    assert maps.shape == (shape[0] // 2, shape[1] // 2, classes)
    np.testing.assert_allclose(logits, Normalized(classes).apply(variables, x[None])[0], rtol=1e-3, atol=1e-4)


# --- nnx ------------------------------------------------------------------------------------------------------------------------------------


class Nnx(nnx.Module):
    """BatchNorm, a list of blocks, dropout, a head with bias."""

    def __init__(self, classes, rngs, rate=0.5):
        self.conv = nnx.Conv(2, 8, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.blocks = nnx.List([nnx.Conv(8, 8, (3, 3), rngs=rngs), nnx.Conv(8, 17, (3, 3), rngs=rngs)])
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.head = nnx.Linear(17, classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        x = self.blocks[1](nnx.relu(self.blocks[0](x)))
        return self.head(self.dropout(x.mean(axis=(-3, -2))))


@pytest.fixture(scope="module")
def of_nnx():
    own = irob.models.from_nnx(lambda rngs: Nnx(3, rngs), (8, 8, 2), 3, features="blocks.1")
    x = np.random.default_rng(2).uniform(size=(6, 8, 8, 2)).astype(np.float32)
    return own, own.initial_params(seed=3), x


def test_an_nnx_module_is_itself_in_evaluation_mode(of_nnx):
    own, variables, x = of_nnx
    module = Nnx(3, nnx.Rngs(3))
    module.eval()
    expected = module(x)
    maps, logits = jax.jit(jax.vmap(own.frozen(variables)))(x)
    assert_close(logits, expected)
    assert_close(jax.vmap(lambda x: own.explain(variables, x).logits)(x), expected)
    np.testing.assert_allclose(maps.mean(axis=(1, 2)), logits, atol=1e-5)
    assert isinstance(own, Model) and own == irob.models.from_nnx(lambda rngs: Nnx(3, rngs), (8, 8, 2), 3, features="blocks.1")
    gradient = jax.grad(lambda v: own.explain(v, x[0]).logits[1])(variables)
    of_module = nnx.grad(lambda m: m(x[:1])[0, 1])(module)
    assert_close(gradient["params"]["conv"]["kernel"], of_module["conv"]["kernel"][...])
    assert own.head_kernel(variables).shape == (18, 3)


def test_training_an_nnx_module_is_its_own_batch_norm_and_dropout(of_nnx):
    """Without dropout equal to the module on the batch; with dropout each image has its own mask, by its key."""
    _, _, x = of_nnx
    still = irob.models.from_nnx(lambda rngs: Nnx(3, rngs, rate=0.0), (8, 8, 2), 3, features="blocks.1")
    variables = still.initial_params(seed=3)
    module = Nnx(3, nnx.Rngs(3), rate=0.0)
    module.train()
    expected = module(x)
    keys = jax.random.split(KEY, len(x))
    cam = irob.maps.READOUTS["cam"]
    trained = jax.vmap(lambda x, key: still.training(variables, x, cam, ("n",), key).logits, axis_name="n")
    assert_close(trained(x, keys), expected)
    update = jax.vmap(lambda x, key: still.updated_statistics(variables, x, ("n",), key), out_axes=None, axis_name="n")
    assert_close(update(x, keys)["norm"]["mean"], module.norm.mean[...])
    own = of_nnx[0]
    drawn = jax.vmap(lambda x, key: own.training(variables, x, cam, ("n",), key).logits, axis_name="n")
    assert_close(drawn(x, keys), drawn(x, keys))
    assert np.abs(drawn(x, keys) - expected).max() > 1e-3
    assert np.abs(drawn(x, keys) - drawn(x, keys[::-1])).max() > 1e-3


def test_layers_of_dropout_draw_apart():
    class Twice(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return jnp.concatenate([self.first(x).reshape(-1), self.second(x).reshape(-1)])

    own = irob.models.from_nnx(lambda rngs: Twice(rngs), (8, 8, 1), 128, features=None)
    logits = own.training({}, np.ones((8, 8, 1), np.float32), irob.maps.READOUTS["cam"], ("n",), KEY).logits
    first, second = np.split(np.asarray(logits), 2)
    assert {0.0, 2.0} == set(first) == set(second) and 10 < np.sum(first != second) < 54


def test_nnx_modules_that_are_no_such_network_are_refused():
    make = lambda rngs: Nnx(3, rngs)
    with pytest.raises(ValueError, match="Nnx must return 4 logits"):
        irob.models.from_nnx(make, (8, 8, 2), 4, features="blocks.1")
    with pytest.raises(ValueError, match=r"Nnx must call one submodule 'features'.* or features=None"):
        irob.models.from_nnx(make, (8, 8, 2), 3)
    with pytest.raises(ValueError, match="the head of Nnx does not read its features: it takes 17 channels, they have 8"):
        irob.models.from_nnx(make, (8, 8, 2), 3, features="blocks.0")
    assert irob.models.from_nnx(Nnx(3, nnx.Rngs(0)), (8, 8, 2), 3, features=None).explain is not None

    class Counting(nnx.Module):
        def __init__(self):
            self.count = nnx.Variable(jnp.zeros(()))

    with pytest.raises(ValueError, match=r"Counting has state beside parameters, statistics of BatchNorm and random draws: \['count'\]"):
        irob.models.from_nnx(Counting(), (8, 8, 2), 3)
