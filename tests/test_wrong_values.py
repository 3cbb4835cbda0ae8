"""Values that are none raise, where they are known; where they are traced, what is made of them is NaN, never a number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob
from irob.discrepancies import one_class, soft_two_class, two_class
from irob.losses import dlr, half_logit_gap, kl_divergence, pick

LOGITS = np.array([0.5, -1.0, 2.0, 0.0], np.float32)
MAPS = np.random.default_rng(0).normal(size=(3, 3, 4)).astype(np.float32)
OF_LABELS = {
    "cross_entropy": lambda label: irob.cross_entropy(LOGITS, label),
    "margin_loss": lambda label: irob.margin_loss(LOGITS, label),
    "dlr": lambda label: dlr(LOGITS, label),
    "half_logit_gap": lambda label: half_logit_gap(LOGITS, 1, label),
    "pick": lambda label: pick(LOGITS, label),
    "one_class": lambda label: one_class(label, 4),
    "two_class": lambda label: two_class(1, label, 4),
    "soft_two_class": lambda label: soft_two_class(LOGITS, label),
    "logsumexp_cross_entropy": lambda label: irob.paper.logsumexp_cross_entropy(LOGITS, label),
    "discrepancy": lambda label: irob.discrepancy(MAPS, 2 * MAPS, one_class(label, 4)),
    **{
        f"{name}, outer": lambda label, name=name: irob.DEFENSES[name]().outer(
            lambda x: irob.Explanation(MAPS * x[0, 0, 0], LOGITS * x[0, 0, 0]), np.ones((2, 2, 1)), np.full((2, 2, 1), 0.5), label
        )
        for name in ("normal", "adv", "trades", "int", "int_one_class", "int2", "mart", "alp")
    },
}


@pytest.mark.parametrize("name", OF_LABELS)
def test_a_label_that_is_no_class(name, unchecked):
    function = OF_LABELS[name]
    assert np.all(np.isfinite(function(2)))
    for label in (-1, 4, 255, np.int32(10), np.int8(-3)):
        with pytest.raises(ValueError, match=r"a label of 4 classes is in 0 \.\. 3, got"):
            function(label)
        assert np.any(np.isnan(jax.jit(function)(np.int32(label)))), label
    for label in (1.0, np.float32(2), np.array([0, 1]), np.eye(4)[1], np.array([1]), True):
        with pytest.raises(ValueError, match="a label is one integer, the number of a class, got"):
            function(label)
        with pytest.raises(ValueError, match="a label is one integer, the number of a class, got"):
            jax.jit(function)(label)


@pytest.mark.parametrize(
    "function",
    [
        lambda f: irob.cross_entropy(f, 0),
        lambda f: irob.margin_loss(f, 0),
        lambda f: dlr(f, 0),
        lambda f: half_logit_gap(f, 0, 1),
        lambda f: kl_divergence(f, f),
        lambda f: soft_two_class(f, 0),
    ],
)
def test_logits_of_a_batch_or_of_integers(function, unchecked):
    for logits in (np.ones((5, 4), np.float32), np.ones(4, np.int32), np.float32(1.0)):
        with pytest.raises(ValueError, match=r"logits of one example are floats \[C\], got"):
            function(logits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((MAPS, MAPS[:, :1], np.ones(4)), r"adversarial_maps must have shape \(3, 3, 4\) .* got \(3, 1, 4\)"),
        ((MAPS, MAPS, np.ones(3)), r"class_weights must have shape \(4,\) .* got \(3,\)"),
        ((MAPS, MAPS, np.float32(1.0)), r"class_weights must have shape \(4,\) .* got \(\)"),
        ((MAPS, MAPS, np.ones(4), np.ones((3, 3), bool)), r"pixels must have shape \(3, 3, 4\) .* got \(3, 3\)"),
    ],
)
def test_maps_that_do_not_fit_are_not_broadcast(arguments, message, unchecked):
    with pytest.raises(ValueError, match=message):
        irob.discrepancy(*arguments)


@pytest.mark.parametrize("ball", [irob.LInf, irob.L2, irob.L1])
def test_radii(ball, unchecked):
    x, moved = np.full((2, 2, 1), 0.5, np.float32), np.full((2, 2, 1), 0.9, np.float32)
    for eps in (-0.1, float("nan"), np.array([0.1, 0.2])):
        for use in (lambda b: b.project(moved, x), lambda b: b.random_point(jax.random.key(0), x)):
            with pytest.raises(ValueError, match="the radius of a ball is one number that is not negative, got"):
                use(ball(eps))
    for eps in (-0.1, np.nan):
        assert np.all(np.isnan(jax.jit(lambda eps: ball(eps).project(moved, x))(np.float32(eps))))
        assert np.all(np.isnan(jax.jit(lambda eps: ball(eps).random_point(jax.random.key(0), x))(np.float32(eps))))
    np.testing.assert_array_equal(ball(0.0).project(moved, x), x)


@pytest.mark.parametrize("shape", [(0, 0, 1), (8, 8, -1), (8, 8, 0), (-4, 8, 1)])
def test_shapes_of_no_image(shape):
    with pytest.raises(ValueError, match=r"multiples of 4, at least 4, got|at least one channel, got"):
        irob.create("small", shape, 3)


def test_reference_images_of_bytes(unchecked):
    score = lambda x: jnp.sum(x)
    x, references = np.ones((2, 2, 1), np.float32), np.zeros((3, 2, 2, 1), np.uint8)
    with pytest.raises(ValueError, match=r"references must be floats .*: divide uint8 pixels by 255"):
        irob.maps.expected_gradients(score, x, jax.random.key(0), references)
    with pytest.raises(ValueError, match="baselines must be floats"):
        irob.integrated_gradients(score, x, references)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e-8, 3e7])
def test_the_correlation_of_a_constant_map_is_nan(value):
    for shape in ((7,), (5, 5), (1,)):
        constant = np.full(shape, value, np.float32)
        other = np.arange(constant.size, dtype=np.float32).reshape(shape)
        assert np.isnan(irob.similarities.pearson(constant, other)) and np.isnan(irob.similarities.pearson(other, constant))
        assert np.isnan(irob.kendall_tau(constant, other))


@pytest.mark.parametrize("n", [1, 8, 64])
def test_the_length_of_what_is_not_finite_is_nan_in_batches_too(n):
    wrong = np.zeros((n, 4, 4, 1), np.float32)
    wrong[:, 1, 2] = np.nan
    for ball in (irob.LInf, irob.L2, irob.L1):
        assert np.all(np.isnan(jax.jit(jax.vmap(ball.length))(wrong)))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("ball", [irob.LInf, irob.L2, irob.L1])
def test_balls_and_attacks_keep_the_type_of_the_image(ball, dtype):
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 4, 1)), dtype)
    one = ball(0.3)
    objective = lambda z: jnp.sum(z * jnp.asarray(np.arange(16).reshape(4, 4, 1) - 8, dtype))
    points = [one.project(x + 1, x), one.ascend(x, x - 0.5, 0.1), one.random_point(jax.random.key(0), x)]
    points += [irob.pgd(objective, one, x, step_sizes=irob.constant_steps(0.1, 3))]
    points += [irob.best_of_pgd(lambda z: (objective(z), objective(z)), one, x, step_sizes=irob.constant_steps(0.1, 3)).x_adv]
    assert [point.dtype for point in points] == [dtype] * 5


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_networks_keep_the_type_of_the_image(dtype, small):
    network, params = small
    x = jnp.full((28, 28, 1), 0.5, dtype)
    for maps, logits in (network.explain(params, x), network.frozen(params)(x), network.frozen(params, dtype=jnp.bfloat16)(x)):
        assert maps.dtype == logits.dtype == dtype


def test_in_double_precision_the_examples_of_the_guide_run(tmp_path):
    """In a process of their own, where JAX_ENABLE_X64 is set."""
    import os
    import subprocess
    import sys

    from conftest import ROOT

    file = ROOT / "experiments" / "guide" / "python.md"
    code = f"import doctest, sys; r = doctest.testfile({str(file)!r}, module_relative=False, optionflags=12); sys.exit(r.failed)"
    environment = os.environ | {"JAX_ENABLE_X64": "1", "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stdout[-3000:]


@pytest.mark.parametrize("ball", [irob.LInf, irob.L2, irob.L1])
def test_pixels(ball, unchecked):
    """Outside of [0, 1]: of bytes, or of a normalized image."""
    for x in (np.full((2, 2, 1), 200.0, np.float32), np.full((2, 2, 1), -0.5, np.float32), np.full((2, 2, 1), np.nan, np.float32)):
        with pytest.raises(ValueError, match=r"pixels are in \[0, 1\], got"):
            irob.pgd(jnp.sum, ball(0.1), x, step_sizes=irob.constant_steps(0.1, 2), start=x)
        attacked = jax.jit(lambda x: irob.pgd(jnp.sum, ball(0.1), x, step_sizes=irob.constant_steps(0.1, 2)))(x)
        assert np.all(np.isnan(attacked))
    with pytest.raises(ValueError, match="x must be floats, pixels in"):
        irob.pgd(jnp.sum, ball(0.1), np.full((2, 2, 1), 200, np.uint8), step_sizes=irob.constant_steps(0.1, 2))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([-0.1, 0.1], "must not be negative"),
        ([np.nan], "must not be negative or NaN"),
        (0.1, r"must be \[steps\]"),
        ([], "at least one step"),
    ],
)
def test_step_sizes_of_no_attack(sizes, message, unchecked):
    x = np.full((2, 2, 1), 0.5, np.float32)
    with pytest.raises(ValueError, match=message):
        irob.pgd(jnp.sum, irob.LInf(0.1), x, step_sizes=np.asarray(sizes, np.float32))
    if np.ndim(sizes) == 1 and len(sizes):
        run = jax.jit(lambda sizes: irob.pgd(jnp.sum, irob.LInf(0.1), x, step_sizes=sizes))
        assert np.all(np.isnan(run(np.asarray(sizes, np.float32))))


def test_a_start_of_another_shape(unchecked):
    x = np.full((2, 2, 1), 0.5, np.float32)
    with pytest.raises(ValueError, match="start must have the shape of x"):
        irob.pgd(jnp.sum, irob.LInf(0.1), x, step_sizes=irob.constant_steps(0.1, 2), start=x[:1])


@pytest.mark.parametrize("correct", [np.array([0.3, 0.7]), np.array([3, 0]), np.array([[True]]), np.array([1, 0])])
def test_what_is_no_proportion(correct, unchecked):
    with pytest.raises(ValueError, match="correct must be True or False for each of n examples"):
        irob.robust_accuracy(correct)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"restarts": 0}, "restarts must be a whole number, at least 1, got 0"),
        ({"num_steps": 2.5}, "num_steps must be a whole number"),
        ({"batch_size": -1}, "batch_size must be a whole number"),
        ({"losses": ()}, "losses is empty"),
    ],
)
def test_counts_of_whole_batches(options, message, unchecked):
    images = np.full((2, 2, 2, 1), 0.5, np.float32)
    classifier = lambda x: jnp.stack([jnp.mean(x), 0.5])
    with pytest.raises(ValueError, match=message):
        irob.evaluate(classifier, images, np.array([0, 1]), irob.LInf(0.1), **options)


def test_maps_of_two_shapes_have_no_rank_correlation(unchecked):
    with pytest.raises(ValueError, match="both maps must have one shape"):
        irob.kendall_tau(np.zeros((2, 2), np.float32), np.zeros((2, 3), np.float32))
