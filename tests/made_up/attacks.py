"""An attack on any objective: sign steps along a running mean of the gradient (MI-FGSM, Dong et al. 2018), last iterate."""

import jax
import jax.numpy as jnp

from irob.attacks import AttackResult


def momentum(objective, ball, x, *, key, num_steps, start=None):
    """`m <- m + g / ||g||_1`, a step of eps / num_steps along m."""

    def step(state, _):
        x_adv, m = state
        gradient, _ = jax.grad(objective, has_aux=True)(x_adv)
        m = m + gradient / jnp.maximum(jnp.sum(jnp.abs(gradient)), 1e-12)
        return (ball.project(ball.ascend(x_adv, m, ball.eps / num_steps), x), m), None

    first = ball.random_point(key, x) if start is None else ball.project(start, x)
    (x_adv, _), _ = jax.lax.scan(step, (first, jnp.zeros_like(x)), length=num_steps)
    return AttackResult(x_adv, objective(x_adv)[1])
