"""Renderers against NumPy and SciPy, budgets, gradients."""

import io
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.fft
import scipy.ndimage
import scipy.signal
from hypothesis import strategies as st

import irob
from irob.attacks.unforeseen import elastic, fog, gabor, jpeg, snow, variation

SHAPES = [(28, 28, 1), (32, 32, 3), (20, 24, 3)]


@pytest.fixture(autouse=True)
def compiled_programs_go():
    """With each test: together these take more than a gigabyte."""
    yield
    jax.clear_caches()


@pytest.fixture
def exact():
    """Float64 throughout."""
    with jax.enable_x64(True):
        yield


def image(shape, random):
    x = random.uniform(0.05, 0.95, shape)
    x[3, 4] = 1.0
    return x


def canvas(x):
    """Zeros around until the sides are multiples of 16, three channels."""
    margins = [((-side % 16) // 2, -side % 16 - (-side % 16) // 2) for side in x.shape[:2]]
    padded = np.pad(x, (*margins, (0, 0)))
    return (np.repeat(padded, 3, axis=2) if x.shape[2] == 1 else padded), margins


def off_canvas(drawn, x, margins):
    (top, _), (left, _) = margins
    middle = drawn[top : top + x.shape[0], left : left + x.shape[1]]
    return middle.mean(axis=2, keepdims=True) if x.shape[2] == 1 else middle


# --- fog ---------------------------------------------------------------------------------------------------------------------------------------


def numpy_plasma(offsets, side):
    """Point by point on the whole torus."""
    heights, used, weight, d = np.zeros((side, side)), 0, 100.0, side
    while d >= 2:
        n, half = side // d, d // 2
        grids = offsets[used : used + 3 * n * n].reshape(3, n, n)
        used, at = used + 3 * n * n, lambda i, j: heights[i % side, j % side]
        for i in range(n):
            for j in range(n):
                r, c = i * d, j * d
                corners = at(r, c) + at(r + d, c) + at(r, c + d) + at(r + d, c + d)
                heights[r + half, c + half] = corners / 4 + weight * (2 * grids[0, i, j] - 1)
        for i in range(n):
            for j in range(n):
                r, c = i * d, j * d
                center = at(r + half, c + half)
                in_row = center + at(r + half - 2 * d, c + half) + at(r, c) + at(r, c + d)
                in_column = center + at(r + half, c + half - 2 * d) + at(r, c) + at(r + d, c)
                heights[r, c + half] = in_row / 4 + weight * (2 * grids[1, i, j] - 1)
                heights[r + half, c] = in_column / 4 + weight * (2 * grids[2, i, j] - 1)
        d, weight = half, weight / 2
    heights = heights - heights.min()
    return heights / heights.max()


@pytest.mark.parametrize("shape", SHAPES)
def test_fog_against_numpy(shape, random):
    x, eps = image(shape, random), 512.0
    whole, margins = canvas(x)
    offsets = random.uniform(size=64 * 64 - 1)
    middle = numpy_plasma(offsets, 64)[16:48, 16:48, None]
    expected = np.clip(255 * (255 * whole + eps * middle) / (255 * whole.max(axis=(0, 1)) + eps), 0, 255) / 255
    found = fog.render(x.astype(np.float32), offsets.astype(np.float32), eps)
    np.testing.assert_allclose(found, off_canvas(expected, x, margins), atol=1e-5)


def test_fog_is_as_large_as_its_image():
    assert [fog.side_of(np.zeros((side, side, 3))) for side in (16, 32, 48, 224)] == [32, 64, 64, 256]


# --- gabor -------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sides", "sigma", "wavelength", "theta"), [(1, 0.1, 3.0, 0.0), (4, 0.25, 4.4, 1.1), (10, 0.4, 5.75, 3.0)])
def test_gabor_kernel_against_a_loop(sides, sigma, wavelength, theta):
    expected = np.zeros((23, 23))
    for row in range(23):
        for column in range(23):
            y, x = row / 22 - 0.5, column / 22 - 0.5
            for i in range(sides):
                angle = theta + math.pi * i / sides
                p, q = x * math.cos(angle) + y * math.sin(angle), -x * math.sin(angle) + y * math.cos(angle)
                expected[row, column] += math.exp(-0.5 * (p * p + q * q) / (sigma + 0.001) ** 2) * math.cos(2 * math.pi * wavelength * p)
    np.testing.assert_allclose(gabor.kernel(sides, sigma, wavelength, theta), expected, atol=2e-5)


def numpy_noise(grid, kernel, still=None):
    """still: the grid that sets the mean, the stretch and the ends."""
    o = scipy.signal.correlate2d(grid, kernel, mode="same")
    s = o if still is None else scipy.signal.correlate2d(still, kernel, mode="same")
    gain = 1.001 / (0.001 + np.abs(s - s.mean()) / np.abs(s - s.mean()).max())
    y, ends = s.mean() + (o - s.mean()) * gain, s.mean() + (s - s.mean()) * gain
    return (y - ends.min()) / (ends.max() - ends.min())


@pytest.mark.parametrize("shape", SHAPES)
def test_gabor_against_scipy(shape, random, exact):
    x, kernel, eps = image(shape, random), random.normal(size=(23, 23)), 25.0
    whole, margins = canvas(x)
    grid = random.uniform(-1, 1, (32, 32)) * (random.uniform(size=(32, 32)) < 0.1)
    expected = np.clip(255 * whole + eps * numpy_noise(grid, kernel)[..., None], 0, 255) / 255
    found = gabor.render(x, grid, eps, variation.spectrum(jnp.asarray(kernel)[None], (32, 32)))
    np.testing.assert_allclose(found, off_canvas(expected, x, margins), atol=1e-5)


def test_gabor_noise_is_nearly_black_and_white(random):
    kernel = gabor.random_kernel(jax.random.key(3))
    grid = (random.uniform(-1, 1, (32, 32)) * (random.uniform(size=(32, 32)) < 0.1)).astype(np.float32)
    noise = np.asarray(gabor.noise(grid, variation.spectrum(kernel[None], (32, 32))))
    assert noise.min() == 0 and noise.max() == 1 and np.mean((noise < 0.1) | (noise > 0.9)) > 0.7
    assert np.isfinite(gabor.noise(np.zeros((32, 32), np.float32), variation.spectrum(kernel[None], (32, 32)))).all()


# --- snow --------------------------------------------------------------------------------------------------------------------------------------


def numpy_flake(row, column, width, sigma, flipped):
    """The line rule as it is told: along the longer axis, cells by their distance from the exact ordinate."""
    kernel, steep = np.zeros((13, 13)), row > column
    end, rise = (row, column) if steep else (column, row)
    slope = rise / end
    w = width * math.sqrt(1 + slope) / 2
    for a in range(6, 6 + end + 1):
        exact = 6 + slope * (a - 6)
        for b in range(math.floor(exact) - math.ceil(w / 2) - 1, math.floor(exact) + math.ceil(w / 2) + 2):
            value = min(max(min(b - exact, exact - b) + 1 + w / 2, 0.0), 1.0)
            if value > 0 and 6 <= b < 13:
                kernel[(a, b) if steep else (b, a)] = value
    kernel[:7, :7] = kernel[::-1, ::-1][:7, :7]
    kernel = kernel[:, ::-1] if flipped else kernel
    bell = np.exp(-(np.array([-1, 0, 1]) ** 2) / (2 * sigma**2))
    return scipy.signal.correlate2d(kernel, np.outer(bell, bell) / bell.sum() ** 2, mode="same")


@pytest.mark.parametrize("width", [1.0, 3.0, 5.0])
def test_flakes_against_a_loop(width):
    for row in range(2, 7):
        for column in range(2, 7):
            found = snow.flake(row, column, width, 0.5, row > 4)
            np.testing.assert_allclose(found, numpy_flake(row, column, width, 0.5, row > 4), atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_snow_against_scipy(shape, random):
    x, eps = image(shape, random), 0.25
    whole, margins = canvas(x)
    strengths = random.uniform(size=(7, 8, 8))
    kernels = np.stack([numpy_flake(2 + i % 5, 6 - i % 4, 1 + 2 * (i % 3), 0.45, True) for i in range(7)])
    fallen = np.zeros((32, 32))
    for i in range(7):
        grid = np.zeros((32, 32))
        grid[(slice(0, None, 4), slice(i, None, 4)) if i < 4 else (slice(i - 3, None, 4), slice(0, None, 4))] = strengths[i] ** 4
        fallen += scipy.signal.correlate2d(grid, kernels[i], mode="same")
    lum = (whole @ [0.2126, 0.7152, 0.0722])[..., None]
    expected = np.clip(0.75 * whole + 0.25 * np.maximum(whole, 1.5 * lum + 0.5) + eps * fallen[..., None], 0, 1)
    spectrum = variation.spectrum(jnp.asarray(kernels, jnp.float32), (32, 32))
    found = snow.render(x.astype(np.float32), strengths.astype(np.float32), eps, spectrum)
    np.testing.assert_allclose(found, off_canvas(expected, x, margins), atol=1e-5)


# --- JPEG --------------------------------------------------------------------------------------------------------------------------------------


def numpy_jpeg(whole, v):
    """Through the coefficients and back, plane by plane and block by block."""
    to_ycc = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    ycc = 255 * whole @ to_ycc.T + [0, 128, 128]
    h, w, _ = whole.shape
    planes = [ycc[..., 0], *(ycc[..., i].reshape(h // 2, 2, w // 2, 2).mean(axis=(1, 3)) for i in (1, 2))]
    used, back = 0, []
    for plane, table in zip(planes, (jpeg.LUMINANCE, jpeg.CHROMINANCE, jpeg.CHROMINANCE), strict=True):
        out = np.zeros_like(plane)
        for i in range(0, plane.shape[0], 8):
            for j in range(0, plane.shape[1], 8):
                c = scipy.fft.dctn(plane[i : i + 8, j : j + 8] - 128, norm="ortho") / table
                c, used = (c + 0.5 * v[used : used + 64].reshape(8, 8)) * table, used + 64
                out[i : i + 8, j : j + 8] = scipy.fft.idctn(c, norm="ortho") + 128
        back.append(out)
    assert used == len(v)
    y, cb, cr = back[0], *(np.repeat(np.repeat(p, 2, 0), 2, 1) - 128 for p in back[1:])
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.clip(rgb, 0, 255) / 255


@pytest.mark.parametrize("shape", SHAPES)
def test_jpeg_against_scipy(shape, random):
    x = image(shape, random)
    whole, margins = canvas(x)
    for size in (0.0, 1.5):
        v = size * random.uniform(-1, 1, 1536)
        found = jpeg.render(x.astype(np.float32), v.astype(np.float32))
        np.testing.assert_allclose(found, off_canvas(numpy_jpeg(whole, v), x, margins), atol=1e-5)


def test_the_tables_are_those_of_the_standard():
    """Those that libjpeg writes at quality 50."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (16, 16)).save(file, "JPEG", quality=50)
    written = PIL.Image.open(file).quantization
    for table, number in ((jpeg.LUMINANCE, 0), (jpeg.CHROMINANCE, 1)):
        np.testing.assert_array_equal(table.ravel(), written[number])


def test_a_corner_by_hand():
    """|g| in the order of coordinates 1, 2, 0; 1 has room 1 upwards, 2 room 2 downwards, which is more than is left."""
    v, g = jnp.array([0.5, 1.0, 0.0]), jnp.array([0.1, 3.0, -2.0])
    np.testing.assert_allclose(jpeg.L1JPEG(2.5).ascend(v, g, 1.0), [0.0, 1.0, -1.5])
    np.testing.assert_allclose(jpeg.L1JPEG(2.5).ascend(v, g, 0.5), [0.25, 1.0, -0.75])


# --- elastic -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_elastic_against_scipy(shape, random):
    x = image(shape, random)
    field = random.uniform(-20, 20, (*shape[:2], 2))
    smooth = np.stack([scipy.ndimage.gaussian_filter(field[..., d], 3, mode="mirror", truncate=4) for d in range(2)])
    coordinates = np.stack(np.meshgrid(*map(np.arange, shape[:2]), indexing="ij")) + smooth
    expected = [scipy.ndimage.map_coordinates(x[..., c], coordinates, order=1, mode="grid-constant") for c in range(shape[2])]
    found = elastic.render(x.astype(np.float32), field.astype(np.float32))
    np.testing.assert_allclose(found, np.stack(expected, axis=-1), atol=2e-5)


# --- all of them -------------------------------------------------------------------------------------------------------------------------------


SIZES = {"jpeg_linf": 0.5, "jpeg_l2": 8.0, "jpeg_l1": 256.0, "elastic": 1.0, "fog": 512.0, "gabor": 25.0, "snow": 0.25}


def test_the_table_is_complete():
    assert set(SIZES) == set(irob.attacks.UNFORESEEN)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_attack_of_size_zero_shows_the_image(name, shape, random):
    """Fog brightens until each channel reaches 1, which these do; a snowy day is pale; JPEG averages channels."""
    x = image(shape, random).astype(np.float32)

    @jax.jit
    def start_shown(x):
        found = irob.attacks.UNFORESEEN[name].vary(jax.random.key(0), x, 0.0)
        return found.render(found.start)

    shown = np.asarray(start_shown(x))
    whole, margins = canvas(x)
    lum = (whole @ np.array([0.2126, 0.7152, 0.0722]))[..., None]
    pale = off_canvas(0.75 * whole + 0.25 * np.minimum(np.maximum(whole, 1.5 * lum + 0.5), 4 - 3 * whole), x, margins)
    expected = {"snow": pale}.get(name, off_canvas(numpy_jpeg(whole, np.zeros(1536)), x, margins) if "jpeg" in name else x)
    np.testing.assert_allclose(shown, expected, atol=2e-5)
    if "jpeg" in name and shape[2] == 1:
        np.testing.assert_allclose(shown, x, atol=2e-5)


def holds(name, v, start, eps):
    """Whether a variable is within its budget."""
    v = np.asarray(v, np.float64)
    if name == "snow":
        means = np.stack([v[:, i : i + 8, j : j + 8].mean(axis=(1, 2)) for i in range(0, v.shape[1], 8) for j in range(0, v.shape[2], 8)])
        return v.min() >= 0 and v.max() <= 1 and means.max() <= 0.2 + 1e-6
    return {
        "jpeg_linf": lambda: np.abs(v).max() <= eps + 1e-6,
        "jpeg_l2": lambda: np.sqrt((v**2).sum()) <= eps * (1 + 1e-5) and np.abs(v).max() <= 2,
        "jpeg_l1": lambda: np.abs(v).sum() <= eps * (1 + 1e-5) and np.abs(v).max() <= 2,
        "elastic": lambda: np.abs(v).max() <= eps + 1e-6,
        "fog": lambda: v.min() >= 0 and v.max() <= 1,
        "gabor": lambda: np.abs(v).max() <= 1 and (v[np.asarray(start) != 0] == 0).all(),
    }[name]()


@hypothesis.settings(max_examples=8)
@hypothesis.given(st.integers(0, 2**31), st.floats(0.1, 3.0))
@pytest.mark.parametrize("name", SIZES)
def test_budgets_hold_after_any_step(name, seed, share):
    random = np.random.default_rng(seed)
    x, eps = image((40, 36, 3), random).astype(np.float32), share * SIZES[name]
    found = irob.attacks.UNFORESEEN[name].vary(jax.random.key(seed), x, eps)
    assert name == "gabor" or holds(name, found.start, found.start, eps)
    v = found.start
    for size in np.asarray(irob.attacks.UNFORESEEN[name].steps(eps, 3)) * (1.0 if name == "jpeg_l1" else 40.0):
        gradient = random.normal(size=v.shape).astype(np.float32)
        v = found.ball.project(found.ball.ascend(v, gradient, size), found.start)
        assert holds(name, v, found.start, eps)
        shown = np.asarray(found.render(v))
        assert shown.shape == x.shape and shown.min() >= 0 and shown.max() <= 1


@pytest.mark.parametrize("name", SIZES)
def test_gradients_by_finite_differences(name, random, exact):
    x = image((20, 24, 3), random)
    found = irob.attacks.UNFORESEEN[name].vary(jax.random.key(1), jnp.asarray(x), 0.3 * SIZES[name])
    seen = random.normal(size=x.shape)
    v, direction = np.asarray(found.start), random.normal(size=found.start.shape)
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(seen * found.render(v))))(v)
    if name == "gabor":  # the stretch counts as a constant
        kernel = gabor.random_kernel(jax.random.split(jax.random.key(1))[0])
        whole, margins = canvas(x)

        def render(moved):
            noise = numpy_noise(moved, np.asarray(kernel, np.float64), still=v)
            return off_canvas(np.clip(whole + 0.3 * SIZES[name] / 255 * noise[..., None], 0, 1), x, margins)
    else:
        render = jax.jit(found.render)
    step = 1e-7
    slope = (np.sum(seen * render(v + step * direction)) - np.sum(seen * render(v - step * direction))) / (2 * step)
    np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), slope, rtol=2e-3)


@pytest.mark.parametrize("name", SIZES)
def test_an_attack_ascends_and_is_a_function_of_key_and_image(name, trained, digits):
    x, labels = digits.images[:4].astype(np.float32) / 255, digits.labels[:4]
    explain, unforeseen, eps = trained.network.frozen(trained.params), irob.attacks.UNFORESEEN[name], SIZES[name]

    def one(x, label, key):
        found = unforeseen.vary(key, x, eps)
        loss = lambda v: irob.cross_entropy(explain(found.render(v)).logits, label)
        v = irob.pgd(loss, found.ball, found.start, step_sizes=unforeseen.steps(eps, 20))
        return found.render(v), loss(v) - loss(found.start)

    keys, attack = jax.random.split(jax.random.key(0), 4), jax.jit(jax.vmap(one))
    attacked, gained = attack(x, labels, keys)
    again, _ = attack(x[::-1], labels[::-1], keys[::-1])
    assert np.mean(gained) > 0 and np.isfinite(attacked).all()
    np.testing.assert_allclose(again[::-1], attacked, atol=1e-3)
    other, _ = attack(x, labels, jax.random.split(jax.random.key(1), 4))
    assert np.abs(other - attacked).max() > 0.01
