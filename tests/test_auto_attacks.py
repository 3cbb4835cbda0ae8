"""The attacks of AutoAttack against plain NumPy in float64, and against models whose smallest perturbations are known."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import irob
from irob.attacks import (
    APGD,
    BALLS,
    FAB,
    L1,
    L2,
    OBJECTIVES,
    CarliniWagner,
    DeepFool,
    HopSkipJump,
    LInf,
    SparseAPGD,
    Square,
    stages_of,
    to_hyperplane,
)
from irob.attacks.ensembles import attempt, attempts
from irob.attacks.square import draws, grid_of_bumps, odd_sides, square_sides, stripes

NORMS = list(BALLS)
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}
KEY = functools.partial(jax.random.key, 0)


@pytest.fixture(params=["float32", "float64"])
def precise(request):
    """The type of all arrays, and how exact results are in it."""
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param), {"float32": 1e-5, "float64": 1e-10}[request.param]


def length(norm, d):
    return np.linalg.norm(np.ravel(d), ORDER[norm])


# --- a network and its losses, in NumPy and in JAX ---------------------------------------------------------------------------------------------


class Network:
    """One hidden layer, of relu or tanh units; its numbers are those of float32."""

    def __init__(self, random, shape, hidden, classes, unit, scale=1.5):
        self.unit = unit
        self.first = random.normal(size=(int(np.prod(shape)), hidden)).astype(np.float32) * np.float32(scale / np.sqrt(np.prod(shape) / 12))
        self.second = random.normal(size=(hidden, classes)).astype(np.float32)
        self.inner = (random.normal(size=hidden) * 0.2 - 0.5 * self.first.sum(axis=0)).astype(np.float32)
        self.outer = (random.normal(size=classes) * 0.5).astype(np.float32)

    def logits(self, dtype):
        weights = [jnp.asarray(w, dtype) for w in (self.first, self.inner, self.second, self.outer)]
        unit = {"relu": jax.nn.relu, "tanh": jnp.tanh}[self.unit]
        return lambda z: unit(z.reshape(-1) @ weights[0] + weights[1]) @ weights[2] + weights[3]

    def forward(self, z):
        """Logits, and a function that pulls a derivative with respect to them back to the image."""
        first, second = self.first.astype(float), self.second.astype(float)
        before = z.reshape(-1) @ first + self.inner
        after = np.maximum(before, 0.0) if self.unit == "relu" else np.tanh(before)
        slope = (before > 0.0) * 1.0 if self.unit == "relu" else 1.0 - after**2
        return after @ second + self.outer, lambda d: (first @ (slope * (second @ d))).reshape(z.shape)


def one_hot(i, n):
    return np.eye(n)[i]


def ratio(top, top_slope, bottom, bottom_slope):
    return top / bottom, top_slope / bottom - top * bottom_slope / bottom**2


def numpy_loss(kind, z, y, t):
    """A loss of logits and its derivative."""
    n, (first, _, third, *rest) = len(z), np.argsort(-z)
    if kind == "cross_entropy":
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        return -np.log(p[y]), p - one_hot(y, n)
    if kind == "dlr":
        other = max((i for i in range(n) if i != y), key=lambda i: z[i])
        bottom = z[first] - z[third] + 1e-12
        return ratio(z[other] - z[y], one_hot(other, n) - one_hot(y, n), bottom, one_hot(first, n) - one_hot(third, n))
    bottom = z[first] - 0.5 * (z[third] + z[rest[0]]) + 1e-12
    return ratio(z[t] - z[y], one_hot(t, n) - one_hot(y, n), bottom, one_hot(first, n) - 0.5 * (one_hot(third, n) + one_hot(rest[0], n)))


def ranked(logits, label):
    """The other classes, that with the largest logit first."""
    return [i for i in np.argsort(-logits) if i != label]


# --- APGD -------------------------------------------------------------------------------------------------------------------------------------


KINDS = ["cross_entropy", "dlr", "dlr_to"]
RADII = {"linf": (0.06, 0.15), "l2": (0.15, 0.4)}


class RadialL2(NamedTuple):
    """As in the authors' code: onto the ball along the radius, then into the box."""

    eps: Any

    def project(self, x_adv, x):
        d = x_adv - x
        size = jnp.linalg.norm(d)
        return jnp.clip(x + d / (size + 1e-12) * jnp.minimum(self.eps, size), 0.0, 1.0)

    def ascend(self, x_adv, gradient, step_size):
        return L2(self.eps).ascend(x_adv, gradient, step_size)

    def random_point(self, key, x):
        return L2(self.eps).random_point(key, x)


def numpy_apgd(norm, judged, x, eps, start, steps, previous):
    """The point of the largest loss, the loss, the largest margin, and the shortest and the longest gradient. judged: -> (loss, gradient, margin)."""

    def projected(v):
        if norm == "linf":
            return np.clip(np.clip(v, x - eps, x + eps), 0, 1)
        size = np.linalg.norm(v - x)
        return np.clip(x + (v - x) / (size + 1e-12) * min(eps, size), 0, 1)

    window, checkpoints, at = max(int(0.22 * steps), 1), {}, 0
    while at + window <= steps:
        at += window
        checkpoints[at] = window
        window = max(window - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))

    point, before, eta = start, start, 2 * eps
    loss, gradient, margin = judged(point)
    best_point, best, best_gradient, slopes = point, loss, gradient, [np.linalg.norm(gradient)]
    last, checked, halved, increases = loss if previous is None else previous, loss, True, 0
    for i in range(steps):
        a = 1.0 if i == 0 else 0.75
        direction = np.sign(gradient) if norm == "linf" else gradient / (np.linalg.norm(gradient) + 1e-12)
        u = projected(point + eta * direction)
        point, before = projected(point + a * (u - point) + (1 - a) * (point - before)), point
        loss, gradient, here = judged(point)
        margin = max(margin, here)
        slopes.append(np.linalg.norm(gradient))
        if loss > best:
            best_point, best, best_gradient = point, loss, gradient
        increases, last = increases + (loss > last), loss
        if i + 1 in checkpoints:
            halved = bool(increases <= 0.75 * checkpoints[i + 1] or (not halved and best <= checked))
            if halved:
                eta, point, gradient = eta / 2, best_point, best_gradient
            checked, increases = best, 0
    return best_point, best, margin, (min(slopes), max(slopes))


def apgd_problems(norm):
    """(network, x, label, target, eps, start), of two radii and some images, all classified as they should be. Pixels are from 0 to 1."""
    random, found = np.random.default_rng(5), []
    networks = [Network(random, (2, 2, 3), 8, 5, unit) for unit in ("relu", "tanh")]
    for number in range(10):
        network, eps = networks[number % 2], RADII[norm][number // 5]
        x = np.clip(random.uniform(-0.2, 1.2, (2, 2, 3)), 0, 1).astype(np.float32).astype(float)
        logits = network.forward(x)[0]
        t = random.uniform(-1, 1, x.shape) if norm == "linf" else random.normal(size=x.shape)
        start = np.clip(x + eps * t / length(norm, t), 0, 1)
        found.append((number % 2, x, int(np.argmax(logits)), ranked(logits, np.argmax(logits))[number % 3], eps, start))
    return networks, found


@functools.cache
def numpy_apgd_runs(norm, steps, previous):
    networks, problems = apgd_problems(norm)
    found = []
    for kind in KINDS:
        for which, x, y, t, eps, start in problems:

            def judged(v, network=networks[which], kind=kind, y=y, t=t):
                z, pull = network.forward(v)
                value, slope = numpy_loss(kind, z, y, t)
                return value, pull(slope), np.delete(z, y).max() - z[y]

            found.append(numpy_apgd(norm, judged, x, eps, start, steps, previous))
    return [np.array(part) for part in zip(*found, strict=True)]


def apgd_runs(norm, steps, previous, dtype):
    """The points of largest value, their values, and the largest margins."""
    networks, problems = apgd_problems(norm)

    def run(which, x, y, t, eps, start, kind, by_margin):
        ball = {"linf": LInf, "l2": RadialL2}[norm](eps)

        def logits(z):
            return jnp.where(which == 0, *(network.logits(dtype)(z) for network in networks))

        def objective(z):
            values, margins = zip(*(OBJECTIVES[name].make(ball, logits, y, t)(z) for name in KINDS), strict=True)
            value = jnp.select([kind == i for i in range(len(KINDS))], values)
            return value, jnp.where(by_margin, margins[0], value)

        return APGD(previous=previous)(objective, ball, x, key=KEY(), num_steps=steps, start=start)

    columns = [np.array(column) for column in zip(*(problems * len(KINDS)), strict=True)]
    given = [jnp.asarray(column, dtype if column.dtype == float else np.int32) for column in columns]
    kinds = jnp.repeat(jnp.arange(len(KINDS)), len(problems))
    both = jax.vmap(jax.vmap(run, in_axes=(0,) * 7 + (None,)), in_axes=(None,) * 7 + (0,))
    result = jax.jit(both)(*given, kinds, jnp.array([False, True]))
    return np.asarray(result.x_adv[0]), np.asarray(result.score[0]), np.asarray(result.score[1])


@pytest.mark.parametrize("previous", [None, 0.0])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_is_the_procedure_of_its_authors(norm, previous, precise):
    """Where the gradient does not vanish, as that of DLR does where the label ranks third, nor explodes, as it can where the label ranks lower.
    Rounding can tell whether a value grew: in float64 for one image at most; in float32, how often depends on how XLA compiles, so that there most
    points, and all values up to 5e-3, are compared."""
    dtype, tolerance = precise
    for steps in (10, 20, 50, 100):
        points, values, margins, slopes = numpy_apgd_runs(norm, steps, previous)
        ours = apgd_runs(norm, steps, previous, dtype)
        assert ours[0].dtype == dtype
        sound = (slopes[:, 0] > 1e-9) & (slopes[:, 1] < 1e3)
        assert sound.mean() > 0.7 and 0.2 < np.mean(margins > 0) < 0.8
        np.testing.assert_array_equal((ours[2] > 0)[sound], (margins > 0)[sound])
        same = np.abs(ours[0] - points).max(axis=(1, 2, 3)) < (tolerance if norm == "linf" or dtype == np.float32 else 10 * tolerance)
        assert np.sum(~same[sound]) <= 1 if dtype == np.float64 else np.mean(same[sound]) > 0.5
        np.testing.assert_allclose(ours[1][sound & same], values[sound & same], rtol=100 * tolerance, atol=100 * tolerance)
        np.testing.assert_allclose(
            ours[1][sound], values[sound], rtol=1e-6 if dtype == np.float64 else 5e-3, atol=1e-6 if dtype == np.float64 else 5e-3
        )
        if dtype == np.float64:
            np.testing.assert_allclose(ours[2][sound], margins[sound], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_value_before_the_first_matters(norm):
    """Otherwise the test above says nothing of it."""
    assert any(np.any(numpy_apgd_runs(norm, steps, None)[0] != numpy_apgd_runs(norm, steps, 0.0)[0]) for steps in (10, 20, 50))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_starts_on_the_sphere_and_stays_in_the_ball(norm, random):
    x, eps = jnp.asarray(random.uniform(0.4, 0.6, (2, 2, 3)).astype(np.float32)), 0.2

    def run(key, sign):
        """Of a start, which the score prefers to all that follows, or of the last point."""
        first = lambda z: (jnp.sum(z), sign * jnp.sum(z))
        return APGD()(first, BALLS[norm](eps), x, key=key, num_steps=20).x_adv - x

    starts, ends = jax.jit(jax.vmap(jax.vmap(run, in_axes=(0, None)), in_axes=(None, 0)))(
        jax.random.split(KEY(), 4), jnp.array([-1.0, 1.0])
    )
    np.testing.assert_allclose([length(norm, d) for d in starts], eps, rtol=1e-5)
    assert len({np.asarray(d).tobytes() for d in starts}) == 4
    np.testing.assert_allclose(ends, np.full_like(ends, eps / {"linf": 1, "l2": np.sqrt(12)}[norm]), rtol=5e-3)
    assert max(length(norm, d) for d in ends) <= eps * (1 + 1e-5)


# --- the move to a hyperplane, and FAB ------------------------------------------------------------------------------------------------------------


def bisected(grown, needed):
    """The level where a growing function is as large as needed."""
    low, high = 0.0, 1.0
    while grown(high) < needed:
        high *= 2
    for _ in range(200):
        low, high = (low, (low + high) / 2) if grown((low + high) / 2) >= needed else ((low + high) / 2, high)
    return high


def numpy_to_hyperplane(norm, v, w, f):
    """By bisection in l-inf and l2, by linear programming in l1."""
    s = np.sign(f)
    room = np.where(w == 0, 0.0, np.where(s * w > 0, v, 1 - v)).ravel()
    gain, needed = np.abs(w).ravel(), abs(f)
    if gain @ room <= needed:
        size = room
    elif norm == "l1":
        size = scipy.optimize.linprog(np.ones_like(gain), A_eq=gain[None], b_eq=[needed], bounds=np.stack([0 * room, room], 1)).x
    else:
        sizes = lambda level: np.minimum(level * (gain if norm == "l2" else 1.0), room)
        size = sizes(bisected(lambda level: gain @ sizes(level), needed))
    return -s * np.sign(w) * size.reshape(w.shape)


@pytest.mark.parametrize("norm", NORMS)
def test_moves_to_a_hyperplane_are_the_shortest(norm, precise, random):
    dtype, tolerance = precise
    cases, infeasible = [], 0
    for number in range(300):
        v, w = random.random(9).astype(np.float32), random.normal(size=9).astype(np.float32)
        v[random.random(9) < 0.2], w[random.random(9) < 0.15] = number % 2, 0.0
        cases.append((v, w, np.float32(random.normal() * (0.3, 1.5, 5.0)[number % 3])))
    columns = [jnp.asarray(np.stack(column), dtype) for column in zip(*cases, strict=True)]
    ours = np.asarray(jax.jit(jax.vmap(functools.partial(to_hyperplane, BALLS[norm](1.0))))(*columns))
    assert ours.dtype == dtype
    for d, case in zip(ours, cases, strict=True):
        v, w, f = (part.astype(float) for part in case)
        expected = numpy_to_hyperplane(norm, v, w, f)
        infeasible += abs(w @ expected + f) > 1e-6
        np.testing.assert_allclose(w @ d, w @ expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(length(norm, d), length(norm, expected), rtol=10 * tolerance, atol=10 * tolerance)
        np.testing.assert_allclose(d, expected, rtol=10 * tolerance, atol=10 * tolerance)
        assert np.all(v + d >= -1e-6) and np.all(v + d <= 1 + 1e-6)
    assert 20 < infeasible < 150


def numpy_fab(norm, network, x, y, t, steps):
    """The point of every step, and its distance, which is infinite where it does not succeed. (x, at an infinite distance, before the first.)"""
    v, points, distances = x, [x], [np.inf]
    for _ in range(steps):
        z, pull = network.forward(v)
        f, w = z[t] - z[y], pull(one_hot(t, len(z)) - one_hot(y, len(z)))
        b = np.sum(w * v) - f
        d1, d2 = numpy_to_hyperplane(norm, v, w, np.sum(w * v) - b), numpy_to_hyperplane(norm, x, w, np.sum(w * x) - b)
        n1, n2 = (max(length(norm, d), 1e-8) for d in (d1, d2))
        a = min(n1 / (n1 + n2), 0.1)
        v = np.clip((v + 1.05 * d1) * (1 - a) + (x + 1.05 * d2) * a, 0, 1)
        succeeds = np.argmax(network.forward(v)[0]) != y
        points.append(v)
        distances.append(length(norm, v - x) if succeeds else np.inf)
        v = x + 0.9 * (v - x) if succeeds else v
    return np.array(points), np.array(distances)


@functools.cache
def fab_problems(norm):
    """(network, x, label, target) of nine images, and what NumPy finds."""
    random = np.random.default_rng(8)
    networks = [Network(random, (2, 2, 3), 8, 5, unit) for unit in ("relu", "tanh")]
    problems, found = [], []
    for number in range(9):
        x = np.clip(random.uniform(-0.2, 1.2, (2, 2, 3)), 0, 1).astype(np.float32).astype(float)
        logits = networks[number % 2].forward(x)[0]
        y = int(np.argmax(logits))
        problems.append((number % 2, x, y, ranked(logits, y)[number % 3]))
        found.append(numpy_fab(norm, networks[number % 2], *problems[-1][1:], 30))
    return networks, problems, [np.array(part) for part in zip(*found, strict=True)]


@pytest.mark.parametrize("norm", NORMS)
def test_fab_is_the_procedure_of_its_authors(norm, precise):
    dtype, tolerance = precise
    networks, problems, (visited, by_step) = fab_problems(norm)
    distances = np.min(by_step, axis=1)
    median = float(np.median(distances))

    def run(which, x, y, t):
        logits = lambda z: jnp.where(which == 0, *(network.logits(dtype)(z) for network in networks))
        ball = BALLS[norm](median * (1 + 1e-3))
        objective = OBJECTIVES["difference"].make(ball, logits, y, t)
        walk = FAB().smallest(objective, ball, x, key=KEY(), num_steps=30)
        return walk.found.x_adv, walk.distance, walk.within(ball, x), FAB()(objective, ball, x, key=KEY(), num_steps=30)

    columns = [np.array(column) for column in zip(*problems, strict=True)]
    x_adv, distance, within, result = jax.jit(jax.vmap(run))(*(jnp.asarray(c, dtype if c.dtype == float else np.int32) for c in columns))
    assert x_adv.dtype == dtype and np.isfinite(distances).sum() >= 6
    np.testing.assert_allclose(distance, distances, rtol=10 * tolerance)
    # Steps that are equally far but for rounding may be a root of that apart: any of them is the nearest.
    as_far = by_step <= distances[:, None] * (1 + tolerance)
    as_far[np.isinf(distances), 1:] = False
    chosen = np.argmin(np.where(as_far, np.max(np.abs(visited - x_adv[:, None]), axis=(2, 3, 4)), np.inf), axis=1)
    points = visited[np.arange(9), chosen]
    np.testing.assert_allclose(x_adv, points, atol=10 * tolerance)
    inside = distances <= median * (1 + 1e-3)
    np.testing.assert_array_equal(result.score > 0, inside)
    np.testing.assert_allclose(result.x_adv, np.where(inside[:, None, None, None], points, columns[1]), atol=10 * tolerance)
    np.testing.assert_array_equal(result.x_adv, within.x_adv)


# --- Square -------------------------------------------------------------------------------------------------------------------------------------


def numpy_side(it, height, width, odd):
    p = 0.8 / next((2**i for i, last in enumerate((10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)) if it <= last), 512)
    side = round(np.sqrt(p * height * width))
    return max(side, 3) + (max(side, 3) % 2 == 0) if odd else min(max(side, 1), height, width)


def numpy_rings(a, b):
    found = np.zeros((a, b))
    for i in range(a):
        for j in range(b):
            away = max(abs(i - a // 2), abs(j - b // 2))
            found[i, j] = sum(1 / (k + 1) ** 2 for k in range(max(a // 2, b // 2) + 1) if k >= away)
    return found / np.linalg.norm(found)


def numpy_bump(s):
    found = np.concatenate([numpy_rings(s // 2, s), -numpy_rings(s - s // 2, s)])
    return found / np.linalg.norm(found)


def numpy_square(norm, margin, x, start, drawn, eps, steps):
    """The best image, its margin, and how often it was replaced."""
    height, width, channels = x.shape
    best, best_loss, m, replaced = start, margin(start), margin(start), 0
    for it in range(steps):
        if m <= 0:
            break
        s = numpy_side(it, height, width, odd=norm == "l2")
        corners, sign = drawn.corners[it + 1].astype(float), drawn.signs[it + 1].astype(float)
        windows = []
        for row, column in corners:
            r, c = int(row * (height - s + 1)), int(column * (width - s + 1))
            windows.append((slice(r, r + s), slice(c, c + s)))
        new, source = windows
        if norm == "linf":
            candidate = best.copy()
            candidate[new] += 2 * eps * sign
            candidate = np.clip(np.clip(candidate, x - eps, x + eps), 0, 1)
        else:
            delta, pattern = best - x, numpy_bump(s)
            pattern = pattern.T if drawn.turned[it + 1] else pattern
            either = np.zeros((height, width), bool)
            either[new] = either[source] = True
            spare = max(eps**2 - np.sum(delta**2), 0) / channels
            written = np.zeros((s, s, channels))
            for c in range(channels):
                held = delta[new][..., c]
                u = pattern * sign[c] + held / (np.linalg.norm(held) + 1e-12)
                written[..., c] = u / np.linalg.norm(u) * np.sqrt(spare + np.sum(delta[..., c][either] ** 2))
            delta[source] = 0
            delta[new] = written
            candidate = np.clip(x + eps * delta / np.linalg.norm(delta), 0, 1)
        here = margin(candidate)
        if here < best_loss or here <= 0:
            best, m, best_loss, replaced = candidate, here, min(best_loss, here), replaced + 1
    return best, m, replaced


SQUARE = {"linf": ((12, 10, 3), 300, 0.03), "l2": ((14, 16, 2), 200, 0.5)}


@pytest.mark.parametrize("norm", list(SQUARE))
def test_square_is_the_procedure_of_its_authors(norm, precise):
    """With the library's own draws and start; a window may touch the last row and column."""
    dtype, tolerance = precise
    shape, steps, eps = SQUARE[norm]
    random = np.random.default_rng(3)
    networks = [Network(random, shape, 12, 5, unit) for unit in ("relu", "tanh")]
    number = 8
    images = np.clip(random.uniform(-0.1, 1.1, (number, *shape)), 0, 1).astype(np.float32)
    labels = np.array([np.argmax(networks[i % 2].forward(x.astype(float))[0]) for i, x in enumerate(images)])
    ball = BALLS[norm](float(np.float32(eps)))

    def run(which, x, y, key):
        logits = lambda z: jnp.where(which == 0, *(network.logits(dtype)(z) for network in networks))
        result = Square()(OBJECTIVES["margin"].make(ball, logits, y, 0), ball, x, key=key, num_steps=steps)
        start_key, query_key = jax.random.split(key)
        start = (stripes if norm == "linf" else grid_of_bumps)(ball, start_key, x)
        return result, start, draws(query_key, steps + 1, shape[2])

    keys = jax.random.split(KEY(), number)
    result, starts, drawn = jax.jit(jax.vmap(run))(jnp.arange(number) % 2, jnp.asarray(images, dtype), jnp.asarray(labels), keys)
    drawn, counts, broken = jax.tree.map(np.asarray, drawn), [], []
    assert result.x_adv.dtype == dtype
    for i in range(number):

        def margin(v, i=i):
            z = networks[i % 2].forward(v)[0]
            return z[labels[i]] - np.delete(z, labels[i]).max()

        x, of_this = images[i].astype(float), jax.tree.map(lambda part, i=i: part[i], drawn)
        expected, m, count = numpy_square(norm, margin, x, np.asarray(starts[i], float), of_this, float(np.float32(eps)), steps)
        counts.append(count)
        broken.append(m <= 0)
        np.testing.assert_allclose(result.x_adv[i], expected, atol=tolerance)
        np.testing.assert_allclose(-result.score[i], m, rtol=10 * tolerance, atol=10 * tolerance)
    assert max(counts) > 20 and 0 < sum(broken) < number


@pytest.mark.parametrize(("size", "sides"), [(32, [29, 20, 14, 10, 7, 5, 4, 3]), (28, [25, 18, 13, 9, 6, 4, 3, 2])])
def test_sides_of_squares(size, sides):
    ours = square_sides(5000, size, size)
    stage = np.searchsorted([10, 50, 200, 500, 1000, 2000, 4000], np.arange(5000))
    np.testing.assert_array_equal(ours, np.array(sides)[stage])
    odd = np.maximum(sides, 3) + (np.maximum(sides, 3) % 2 == 0)
    np.testing.assert_array_equal(odd_sides(5000, size, size, 0.8), odd[stage])


def test_square_leaves_out_queries_that_change_nothing():
    """The objective never improves, so the best image stays the start: of gray stripes, squares that are there already."""
    x, queries = np.full((4, 4, 1), 0.5, np.float32), 200
    seen = []

    def objective(z):
        jax.debug.callback(seen.append, z)
        return jnp.zeros(()), -jnp.ones(())

    start = x + np.float32(0.1)
    found = Square()(objective, LInf(0.1), x, key=jax.random.key(0), num_steps=queries, start=start)
    jax.effects_barrier()
    np.testing.assert_array_equal(found.x_adv, LInf(0.1).project(start, x))
    same = sum(bool((np.asarray(z) == np.asarray(found.x_adv)).all()) for z in seen[1:])
    # Half of the signs are those of the start; of k such queries in a row every second is left out.
    assert 0.6 * queries < len(seen) < 0.8 * queries and same < 0.35 * queries


def test_square_stays_in_a_ball_that_couples_pixels():
    class Gray(LInf):
        """Channels move alike."""

        def project(self, x_adv, x):
            move = jnp.mean(super().project(x_adv, x) - x, axis=-1, keepdims=True)
            return super().project(x + move, x)

    x, ball = np.full((4, 4, 3), 0.5, np.float32), Gray(0.1)
    found = Square()(lambda z: (jnp.sum(z * jnp.arange(3.0)), -jnp.ones(())), ball, x, key=jax.random.key(0), num_steps=30)
    np.testing.assert_allclose(found.x_adv, ball.project(found.x_adv, x), atol=1e-6)
    assert np.abs(found.x_adv - x).max() > 0.05


def test_square_starts_from_stripes(random):
    x = random.random((6, 40, 3)).astype(np.float32)
    start = np.asarray(jax.jit(lambda: stripes(LInf(0.1), KEY(), x))())
    signs = np.where(np.where(x < 0.5, start > x, start >= x), 1.0, -1.0)
    np.testing.assert_allclose(start, np.clip(x + 0.1 * signs, 0, 1), atol=1e-6)
    assert np.all(signs == signs[:1]) and np.all(np.abs(signs.mean(axis=(0, 1))) < 0.5)
    assert np.any(signs[0, :, 0] != signs[0, :, 1])


@pytest.mark.parametrize("size", [10, 13, 28, 32])
def test_square_starts_from_a_grid_of_bumps(size, random):
    x, eps = random.uniform(0.4, 0.6, (size, size, 2)).astype(np.float32), 0.3
    delta = np.asarray(jax.jit(lambda: grid_of_bumps(L2(eps), KEY(), x))()) - x
    np.testing.assert_allclose(np.linalg.norm(delta), eps, rtol=1e-5)
    side = size // 5
    above, tile = (size - 5 * side) // 2, numpy_bump(side)
    signs, seen = [], np.zeros((size, size), bool)
    for row in range(above, size, side):
        for column in range(above, size, side):
            if row < above + size // side * side and column < above + size // side * side:
                part = delta[row : row + side, column : column + side]
                cut = tile[: part.shape[0], : part.shape[1]]
                seen[row : row + side, column : column + side] = True
                lies = tile.T[: part.shape[0], : part.shape[1]]
                shown = lies if abs(np.sum(part[..., 0] * lies)) > abs(np.sum(part[..., 0] * cut)) else cut
                for c in range(2):
                    sign = np.sign(np.sum(part[..., c] * shown))
                    signs.append((sign, shown is lies))
                    np.testing.assert_allclose(part[..., c], sign * shown * np.abs(delta).max() / np.abs(tile).max(), atol=1e-5)
    np.testing.assert_allclose(delta[~seen], 0.0, atol=1e-7)
    assert set(signs) == {(1.0, True), (-1.0, True), (1.0, False), (-1.0, False)}


@pytest.mark.parametrize("norm", NORMS)
def test_square_stays_in_the_ball(norm, random):
    x, w = random.random((10, 10, 1)).astype(np.float32), random.normal(size=(10, 10, 1)).astype(np.float32)
    ball = BALLS[norm]({"linf": 0.1, "l2": 0.6, "l1": 3.0}[norm])
    found = jax.jit(lambda: Square()(lambda z: (jnp.sum(w * (z - x)), -1.0 + 0.0 * jnp.sum(z)), ball, x, key=KEY(), num_steps=100).x_adv)()
    assert length(norm, found - x) <= ball.eps * (1 + 1e-5) and np.min(found) >= 0 and np.max(found) <= 1
    assert np.sum(w * (found - x)) > 0.3 * ball.eps * np.linalg.norm(w.ravel(), DUAL[norm]) * (0.5 if norm == "l1" else 1.0)


# --- APGD in l1 ----------------------------------------------------------------------------------------------------------------------------------


def test_sparse_apgd_solves_linear_objectives(random):
    """The optimum: entries in the order of |w|, each as far as there is room. Steps that move several entries alike can stall just below it."""
    xs, ws = (random.random((6, 4, 4, 3)).astype(np.float32), random.normal(size=(6, 4, 4, 3)).astype(np.float32))
    epses = jnp.array([0.5, 0.5, 2.0, 2.0, 6.0, 6.0])

    def run(x, w, eps):
        return SparseAPGD()(lambda z: (jnp.sum(w * (z - x)),) * 2, L1(eps), x, key=KEY(), num_steps=100)

    result = jax.jit(jax.vmap(run))(xs, ws, epses)
    optima = []
    for x, w, eps, x_adv in zip(xs, ws, epses, result.x_adv, strict=True):
        assert length("l1", x_adv - x) <= eps * (1 + 1e-5) and np.min(x_adv) >= 0 and np.max(x_adv) <= 1
        room, left, best = np.where(w > 0, 1 - x, x).ravel(), float(eps), 0.0
        for i in np.argsort(-np.abs(w).ravel()):
            best, left = best + min(left, room[i]) * np.abs(w).ravel()[i], left - min(left, room[i])
        optima.append(best)
    np.testing.assert_allclose(result.score, optima, rtol=3e-2)
    assert np.all(result.score <= np.array(optima) * (1 + 1e-5)) and np.sum(result.score >= np.array(optima) * (1 - 1e-4)) >= 3


@pytest.mark.parametrize("stages", [((1.0, 1.0),), SparseAPGD().stages])
def test_sparse_apgd_is_never_below_its_start(stages):
    random, ball = np.random.default_rng(1), L1(1.0)
    network = Network(random, (2, 2, 3), 8, 5, "relu")
    xs = random.random((8, 2, 2, 3)).astype(np.float32)
    starts = jax.vmap(lambda key, x: ball.random_point(key, x))(jax.random.split(KEY(), 8), xs)

    def run(x, start, y):
        value = lambda z: irob.cross_entropy(network.logits(np.float32)(z), y)
        result = SparseAPGD(stages)(lambda z: (value(z),) * 2, ball, x, key=KEY(), num_steps=25, start=start)
        return result, value(result.x_adv), value(start)

    result, reached, begun = jax.jit(jax.vmap(run))(xs, starts, jnp.arange(8) % 5)
    np.testing.assert_allclose(result.score, reached, rtol=1e-6)
    assert (
        np.all(np.sum(np.abs(result.x_adv - xs), axis=(1, 2, 3)) <= 1.0 + 1e-5) and np.min(result.x_adv) >= 0 and np.max(result.x_adv) <= 1
    )
    assert np.all(reached >= begun - 1e-6) and np.mean(reached > begun + 0.1) > 0.5


# --- linear models, where everything is known --------------------------------------------------------------------------------------------------


class Linear:
    """Logits `w^T x + b`, pixels in the middle of the box."""

    def __init__(self, seed, classes, examples, shape=(2, 3, 2)):
        random = np.random.default_rng(seed)
        self.w = random.normal(size=(int(np.prod(shape)), classes)).astype(np.float32)
        self.b = (-0.5 * self.w.sum(axis=0)).astype(np.float32)
        self.x = random.uniform(0.3, 0.7, (examples, *shape)).astype(np.float32)
        self.z = self.x.reshape(examples, -1).astype(float) @ self.w + self.b
        self.y = np.argmax(self.z, axis=1).astype(np.int32)

    def logits(self, x):
        return x.reshape(-1) @ self.w + self.b

    def distances(self, norm):
        """Of each example to the nearest boundary: robust iff it is larger than eps."""
        found = []
        for z, y in zip(self.z, self.y, strict=True):
            others = [j for j in range(len(z)) if j != y]
            found.append(min((z[y] - z[j]) / np.linalg.norm(self.w[:, y].astype(float) - self.w[:, j], DUAL[norm]) for j in others))
        return np.array(found)


def test_carlini_wagner_finds_the_smallest_perturbation():
    model = Linear(0, 2, 12)
    distances = model.distances("l2")
    near = (distances > 0.03) & (distances < 0.25)  # more than a step of Adam, and the box does not bind
    assert near.sum() >= 6

    def run(x, y):
        objective = OBJECTIVES["margin"].make(L2(1.0), model.logits, y, 0)
        return CarliniWagner().smallest(objective, L2(0.15), x, key=KEY(), num_steps=150), CarliniWagner()(
            objective, L2(0.15), x, key=KEY(), num_steps=150
        )

    walk, result = jax.jit(jax.vmap(run))(model.x[near], model.y[near])
    np.testing.assert_allclose(walk.distance, distances[near], rtol=0.02)
    np.testing.assert_allclose(np.linalg.norm((walk.found.x_adv - model.x[near]).reshape(near.sum(), -1), axis=1), walk.distance, rtol=1e-5)
    assert np.all(walk.distance >= distances[near] * (1 - 1e-4)) and np.all(walk.found.score > 0)
    np.testing.assert_array_equal(result.score > 0, np.asarray(walk.distance) <= 0.15)


@pytest.mark.parametrize("norm", NORMS)
def test_deep_fool_oversteps_the_smallest_perturbation(norm):
    """With two classes one move does, and with more, that to the nearest boundary."""
    for classes, name in ((2, "difference"), (4, "nearest_boundary")):
        model = Linear(1, classes, 12)
        distances = model.distances(norm)
        near = distances < (0.25 if norm != "linf" else 1.0)

        def run(x, y, model=model, name=name):
            objective = OBJECTIVES[name].make(BALLS[norm](1.0), model.logits, y, 1 - jnp.minimum(y, 1))
            return DeepFool().smallest(objective, BALLS[norm](1.0), x, key=KEY(), num_steps=5)

        walk = jax.jit(jax.vmap(run))(model.x[near], model.y[near])
        assert near.sum() >= 4 and np.all(walk.found.score > 0)
        np.testing.assert_allclose(walk.distance, 1.02 * distances[near], rtol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_hop_skip_jump_comes_near_to_the_smallest_perturbation(norm):
    """By decisions alone: other scores of the same signs give the same points."""
    model = Linear(3, 2, 12)  # with more classes it may follow another boundary than the nearest
    distances = model.distances(norm)
    near = distances < 0.25  # the box does not bind
    assert near.sum() >= 4

    def run(x, y, key, times):
        score = lambda z: times * OBJECTIVES["margin"].make(BALLS[norm](1.0), model.logits, y, 0)(z)[1] ** 3
        return HopSkipJump().smallest(lambda z: (jnp.nan, score(z)), BALLS[norm](1.0), x, key=key, num_steps=8000)

    keys = jax.random.split(KEY(), near.sum())
    walks = [jax.jit(jax.vmap(functools.partial(run, times=times)))(model.x[near], model.y[near], keys) for times in (1.0, 7.0)]
    np.testing.assert_array_equal(walks[0].found.x_adv, walks[1].found.x_adv)
    assert np.all(walks[0].found.score > 0) and np.all(walks[0].distance >= distances[near] * (1 - 1e-4))
    np.testing.assert_allclose(walks[0].distance, distances[near], rtol=0.1)
    found = [length(norm, x_adv - x) for x_adv, x in zip(walks[0].found.x_adv, model.x[near], strict=True)]
    np.testing.assert_allclose(found, walks[0].distance, rtol=1e-5)


def test_hop_skip_jump_moves_along_the_boundary_of_many_pixels():
    """A linear boundary at distance 0.1 of a whole image, where the first point of the boundary is four times as far."""
    w = np.random.default_rng(0).choice([-1.0, 1.0], size=(28, 28, 1)).astype(np.float32)
    x = np.full((28, 28, 1), 0.5, np.float32)
    value = lambda z: jnp.sum(w * (z - x)) - 0.1 * x.size
    found = jax.jit(
        lambda: HopSkipJump().smallest(lambda z: (value(z),) * 2, LInf(1.0), x, key=KEY(), num_steps=6000, start=(w > 0) * 1.0)
    )()
    assert found.found.score > 0 and 0.1 * (1 - 1e-4) <= found.distance <= 0.2
    noisy = jax.jit(
        lambda: HopSkipJump().smallest(lambda z: (value(z),) * 2, LInf(1.0), x, key=KEY(), num_steps=1, start=jnp.where(w > 0, 1.0, 0.35))
    )()
    assert noisy.distance >= found.distance * (1 - 1e-4)


def test_hop_skip_jump_stays_where_nothing_succeeds():
    x = np.full((2, 3, 2), 0.5, np.float32)
    found = HopSkipJump()(lambda z: (0.0, jnp.float32(-1.0)), LInf(0.1), x, key=KEY(), num_steps=300)
    np.testing.assert_array_equal(found.x_adv, x)
    assert found.score == -np.inf
    nearby = HopSkipJump()(lambda z: (0.0, z[0, 0, 0] - 0.58), LInf(0.1), x, key=KEY(), num_steps=3000)
    assert nearby.score > 0 and length("linf", nearby.x_adv - x) <= 0.1


WHITE_BOX = [(2, 0), (2, 1), (2, 2), (5, 1), (5, 2)]  # classes, and the number of the stage


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("classes", "number"), WHITE_BOX)
def test_stages_of_auto_attack_are_exact_on_linear_models(norm, classes, number):
    """For 64 examples and three radii: an image is robust iff `z_y - z_j > eps ||w_y - w_j||_q` for all j, and each stage alone finds that."""
    stage = stages_of("standard", norm, classes)[number]
    assert stage.white_box() and (classes == 2 or stage.targets == classes - 1)
    model = Linear(2, classes, 64)
    distances = model.distances(norm)
    epses = np.quantile(distances, (0.15, 0.3, 0.45)).astype(np.float32) * np.float32(1.0 + 1e-4)
    assert epses.max() < 0.3  # the box does not bind

    def run(x, y, key, eps):
        of_run = lambda restart, rank: attempt(stage, model.logits, BALLS[norm](eps), x, y, jax.random.fold_in(key, restart), rank).score
        return jnp.max(jax.vmap(of_run)(*jnp.array(attempts(stage)).T))

    keys = jax.random.split(KEY(), 64)
    each = jax.jit(jax.vmap(jax.vmap(run, in_axes=(0, 0, 0, None)), in_axes=(None, None, None, 0)))
    broken = np.asarray(each(model.x, model.y, keys, epses)) > 0
    for eps, of_eps in zip(epses, broken, strict=True):
        assert np.sum(of_eps != (distances < eps)) <= 1
