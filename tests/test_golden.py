"""Our functions against what the authors' own code computes on their released networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import released_weights

import irob

pytestmark = released_weights.needed
THEIR_NAME = {"int_one_class": "intone", "int_adv": "intadv", "int2_adv": "int2adv"}
THEIRS = ("normal", "adv", "trades", "int", "int_one_class", "int_adv", "int2", "int2_adv")  # with our defaults
THEIR_ORDER = [("conv_0", "kernel"), ("conv_0", "bias"), ("conv_1", "kernel"), ("conv_1", "bias"), ("conv_2", "kernel"), ("conv_2", "bias")]


def assert_close(ours, theirs, relative=1e-5):
    """Largest error relative to the largest value."""
    assert np.abs(np.asarray(ours) - theirs).max() <= relative * np.abs(theirs).max()


@pytest.mark.parametrize("form", ["explain", "frozen"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name.startswith("mnist") else pytest.mark.slow) for name in released_weights.NETWORKS],
)
def test_forward_quantities(name, form):
    architecture, shape = released_weights.NETWORKS[name]
    network, params, theirs = irob.create(architecture, shape, 10), released_weights.parameters(name), released_weights.golden(name)
    explain = network.frozen(params) if form == "frozen" else lambda x: network.explain(params, x)
    x, labels = theirs["x"], theirs["y"].argmax(axis=1)
    maps, logits = jax.jit(jax.vmap(explain))(x)
    assert_close(logits, theirs["logits"])
    assert_close(maps, theirs["cam"])
    assert_close(jax.jit(jax.vmap(lambda x: network.features(params, x)))(x), theirs["rep"])

    def mean_loss(x):
        return jnp.mean(jax.vmap(lambda x, t: irob.cross_entropy(explain(x).logits, t))(x, labels))

    # On the normal network 1 - p is about 1e-4: all but three of its digits cancel in float32 in their form of the loss.
    relative = 1e-3 if name == "mnist_smallgap_normal_100" else 1e-5
    loss, gradient = jax.jit(jax.value_and_grad(mean_loss))(x)
    assert_close(loss, theirs["ce"], relative)
    assert_close(gradient, theirs["ce_grad_inputs"], relative)


OBJECTIVES = {
    **{THEIR_NAME.get(name, name): (name, {}) for name in THEIRS},
    # They differentiate the mean loss of 16 images, and their class-wise form is twice the other one.
    "ig": ("ig_norm", {"weight": 1 / 16}),
    "igsum": ("ig_sum_norm", {"weight": 1 / 16}),
    "intig": ("ig_norm", {"weight": 0.02 / 16}),
    "intigadv": ("ig_sum_norm", {"weight": 0.02 / 16}),
}


QUICK = {"normal", "adv", "trades", "int", "intone"}  # the others add the same terms up, or take long


@pytest.mark.parametrize("theirs", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in OBJECTIVES])
def test_training_objectives(theirs):
    values, arrays = released_weights.objectives()
    name, options = OBJECTIVES[theirs]
    network, params = irob.create("small", (28, 28, 1), 10), released_weights.parameters("mnist_smallgap_int_100")
    x, x_adv, labels = arrays["x"], arrays["x_adv"], arrays["y"].argmax(axis=1)
    defense = irob.DEFENSES[name](**options)

    def outer(params, x_adv):
        explain = lambda x: network.explain(params, x)
        return jnp.mean(jax.vmap(lambda x, x_adv, t: defense.outer(explain, x, x_adv, t))(x, x_adv, labels))

    # The authors' TRADES loss is a vector that the optimizer sums: 16 times our mean.
    scale = len(x) if name == "trades" else 1
    loss, (of_params, of_x_adv) = jax.jit(jax.value_and_grad(outer, (0, 1)))(params, x_adv)
    assert_close(scale * loss, np.sum(values[theirs]["loss"]))
    for i, (layer, part) in enumerate(THEIR_ORDER):
        if f"{theirs}/grad_param_{i}" in arrays:
            assert_close(scale * of_params[layer][part], arrays[f"{theirs}/grad_param_{i}"])
    assert_close(scale * of_params["head"]["kernel"], arrays[f"{theirs}/grad_param_6"][0, 0])
    if f"{theirs}/grad_loss_wrt_inputs_adv" in arrays:
        assert_close(scale * of_x_adv, arrays[f"{theirs}/grad_loss_wrt_inputs_adv"])
    if defense.inner is not None:
        explain = network.frozen(params)
        inner = lambda x_adv: jnp.mean(jax.vmap(lambda x, x_adv, t: defense.inner(explain, x, t)(x_adv))(x, x_adv, labels))
        assert_close(scale * jax.jit(jax.grad(inner))(x_adv), arrays[f"{theirs}/grad_attack"])
