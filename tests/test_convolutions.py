import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from irob import convolutions

CASES = [
    (28, 4, 2, 1, 16),
    (14, 4, 2, 16, 32),
    (7, 7, 1, 3, 4),
    (8, 7, 1, 3, 4),
    (8, 3, 1, 4, 5),
    (8, 3, 2, 4, 5),
    (28, 5, 1, 1, 3),
    (16, 3, 2, 2, 2),
    (12, 4, 2, 3, 20),
    (12, 3, 2, 20, 3),
    (9, 3, 1, 3, 4),
]


def case(size, width, inputs, outputs, random):
    x = random.normal(size=(size, size, inputs)).astype(np.float32)
    kernel = random.normal(size=(width, width, inputs, outputs)).astype(np.float32)
    return x, kernel, random.normal(size=outputs).astype(np.float32)


@pytest.mark.parametrize(("size", "width", "stride", "inputs", "outputs"), CASES)
def test_specialized_is_scipys_correlation(size, width, stride, inputs, outputs, random):
    x, kernel, bias = case(size, width, inputs, outputs, random)
    total = max((-(-size // stride) - 1) * stride + width - size, 0)
    padded = np.pad(x, [(total // 2, total - total // 2)] * 2 + [(0, 0)])
    expected = np.stack([
        sum(scipy.signal.correlate2d(padded[..., i], kernel[..., i, o], "valid") for i in range(inputs))[::stride, ::stride] + bias[o]
        for o in range(outputs)
    ], axis=-1)  # fmt: skip
    for found in (convolutions.conv(x, kernel, stride) + bias, convolutions.specialize(kernel, bias, stride, (size, size))(x)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "width", "stride", "inputs", "outputs"), CASES)
def test_specialized_has_the_values_and_input_gradients_of_xlas(size, width, stride, inputs, outputs, random):
    x, kernel, bias = case(size, width, inputs, outputs, random)
    looped = convolutions.specialize(kernel, bias, stride, (size, size))

    def plain(x):
        return convolutions.conv(x, kernel, stride) + bias

    np.testing.assert_allclose(looped(x), plain(x), rtol=1e-4, atol=1e-4)
    cotangent = random.normal(size=plain(x).shape).astype(np.float32)
    gradients = [jax.jit(jax.grad(lambda x, f=f: jnp.sum(f(x) * cotangent)))(x) for f in (looped, plain)]
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-4)


def test_every_form_is_among_the_cases(monkeypatch, random):
    used = set()
    for name in ("strided_conv_as_matmul", "dense_bands", "conv_with_explicit_gradients"):
        function = getattr(convolutions, name)
        monkeypatch.setattr(convolutions, name, lambda *a, name=name, function=function: (used.add(name), function(*a))[1])
    for size, width, stride, inputs, outputs in CASES:
        x, kernel, bias = case(size, width, inputs, outputs, random)
        convolutions.specialize(kernel, bias, stride, (size, size))(x)
    assert used == {"strided_conv_as_matmul", "dense_bands", "conv_with_explicit_gradients"}


@pytest.mark.parametrize(("size", "width", "stride", "inputs", "outputs"), CASES)
def test_second_derivatives_exist(size, width, stride, inputs, outputs, random):
    x, kernel, bias = case(size, width, inputs, outputs, random)

    def second(f):
        inner = jax.grad(lambda x: jnp.sum(f(x) ** 3))
        return jax.jit(jax.grad(lambda x: jnp.sum(inner(x) ** 2)))(x)

    ours = second(convolutions.specialize(kernel, bias, stride, (size, size)))
    xlas = second(lambda x: convolutions.conv(x, kernel, stride) + bias)
    np.testing.assert_allclose(ours, xlas, rtol=1e-3, atol=1e-4 * np.abs(xlas).max())


def test_images_at_a_time(monkeypatch):
    """By cores, at most 256; of larger images fewer."""
    monkeypatch.setattr(convolutions, "on_cpu", lambda: True)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    for cores, side, expected in ((2, 28, 64), (2, 64, 16), (2, 224, 2), (64, 32, 256), (64, 224, 64)):
        monkeypatch.setattr(convolutions.os, "sched_getaffinity", lambda _, cores=cores: range(cores))
        assert convolutions.images_at_a_time(side, side) == expected
    monkeypatch.setattr(convolutions, "on_cpu", lambda: False)
    assert convolutions.images_at_a_time(224, 224) == 256


def test_kernel_gradients_are_refused(random):
    x, kernel, bias = case(8, 3, 2, 2, random)
    with pytest.raises(ValueError, match=r"use explain\(params, x\) instead"):
        jax.grad(lambda k: jnp.sum(convolutions.specialize(*convolutions.constant((k, bias)), 1, (8, 8))(x)))(kernel)


@pytest.mark.parametrize(("width", "stride"), [(4, 2), (7, 1), (3, 1)])
def test_maps_that_are_not_square(width, stride, random):
    x, kernel = random.normal(size=(4, 6, 2)).astype(np.float32), random.normal(size=(width, width, 2, 3)).astype(np.float32)
    expected = convolutions.conv(x, kernel, stride)
    np.testing.assert_allclose(convolutions.specialize(kernel, np.zeros(3, np.float32), stride, (4, 6))(x), expected, rtol=1e-4, atol=1e-4)
    if stride == 1:
        found = convolutions.conv_by_bands(x, convolutions.dense_bands(kernel, (4, 6)))
        np.testing.assert_allclose(found.reshape(4, 6, 3), expected, rtol=1e-4, atol=1e-4)
        reading = convolutions.mean_over_positions(kernel, 1, (4, 6))
        np.testing.assert_allclose(np.einsum("hwi,hwio->o", x, reading), np.mean(expected, axis=(0, 1)), rtol=1e-4, atol=1e-4)


def test_mean_over_positions_reads_the_mean(random):
    x, kernel, _ = case(7, 5, 3, 4, random)
    reading = convolutions.mean_over_positions(kernel, 1, (7, 7))
    expected = np.mean(convolutions.conv(x, kernel, 1), axis=(0, 1))
    np.testing.assert_allclose(np.einsum("hwi,hwio->o", x, reading), expected, rtol=1e-4, atol=1e-5)


OBLONG = [
    ((9, 11), (4, 3), 2, 2, 3),
    ((3, 5), (8, 7), 2, 2, 3),
    ((5, 1), (3, 3), 1, 2, 3),
    ((6, 8), (2, 4), 2, 3, 20),
    ((4, 6), (5, 7), 1, 2, 3),
]


# Padding (before, after) along height and width, of (size, width, stride, inputs, outputs).
PADDED = [
    ((8, 8), (3, 3), 2, 4, 20, ((1, 1), (1, 1))),
    ((8, 8), (3, 3), 1, 4, 20, ((0, 0), (0, 0))),
    ((9, 7), (7, 7), 2, 3, 5, ((3, 3), (3, 3))),
    ((6, 8), (1, 1), 2, 3, 20, ((0, 0), (0, 0))),
    ((6, 8), (2, 3), 1, 3, 4, ((1, 0), (2, 1))),
    ((7, 8), (4, 4), 2, 3, 4, ((0, 1), (2, 2))),
]
# So many channels and positions that the gradients of kernels are matrix products.
LARGE = [
    ((9, 8), (3, 3), 1, 64, 65, None),
    ((17, 16), (4, 3), 2, 65, 64, ((1, 2), (0, 1))),
    ((19, 18), (1, 1), 2, 64, 64, ((0, 0), (0, 0))),
]


@pytest.mark.parametrize(("size", "width", "stride", "inputs", "outputs", "padding"), PADDED)
def test_explicit_padding_is_scipys_correlation(size, width, stride, inputs, outputs, padding, random):
    x = random.normal(size=(*size, inputs)).astype(np.float32)
    kernel, bias = random.normal(size=(*width, inputs, outputs)).astype(np.float32), random.normal(size=outputs).astype(np.float32)
    around = np.pad(x, [*padding, (0, 0)])
    planes = [sum(scipy.signal.correlate2d(around[..., i], kernel[..., i, o], "valid") for i in range(inputs)) for o in range(outputs)]
    expected = np.stack(planes, axis=-1)[::stride, ::stride] + bias
    np.testing.assert_allclose(convolutions.specialize(kernel, bias, stride, size, padding)(x), expected, rtol=1e-4, atol=1e-4)
    reading = convolutions.mean_over_positions(kernel, stride, size, padding)
    np.testing.assert_allclose(np.einsum("hwi,hwio->o", x, reading) + bias, expected.mean((0, 1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "width", "stride", "inputs", "outputs", "padding"),
    [*(((s, s), (w, w), *rest, None) for s, w, *rest in CASES), *((*case, None) for case in OBLONG), *PADDED, *LARGE],
)
def test_derivatives_of_batches_in_kernels(size, width, stride, inputs, outputs, padding, random):
    """First ones, those in both arguments, and forward mode, of a whole batch."""
    x = random.normal(size=(3, *size, inputs)).astype(np.float32)
    kernel, bias = random.normal(size=(*width, inputs, outputs)).astype(np.float32), random.normal(size=outputs).astype(np.float32)

    def derivatives(convolve):
        def loss(kernel, x):
            return jnp.mean(jax.vmap(lambda x: jnp.sum(jnp.sin(convolve(kernel)(x))))(x))

        def of_gradients(kernel, x):
            return jnp.mean(jax.vmap(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(convolve(kernel)(x))))(x) ** 2))(x))

        @jax.jit
        def all_of(kernel, x):
            return (
                jax.grad(loss)(kernel, x),
                jax.grad(of_gradients)(kernel, x),
                jax.jvp(lambda k: loss(k, x), (kernel,), (0.1 * kernel,))[1],
            )

        return all_of(kernel, x)

    gradient = jax.make_jaxpr(jax.grad(lambda k: jnp.sum(convolutions.specialize(k, bias, stride, size, padding)(x[0]))))(kernel)
    products = str(gradient).count("dot_general")
    assert products == width[0] * width[1] or (size, width, stride, inputs, outputs, padding) not in LARGE
    ours = derivatives(lambda kernel: convolutions.specialize(kernel, bias, stride, size, padding))
    xlas = derivatives(lambda kernel: lambda x: convolutions.conv(x, kernel, stride, padding) + bias)
    for found, expected in zip(ours, xlas, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
