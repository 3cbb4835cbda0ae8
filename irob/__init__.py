"""irob: interpretability-aware robustness in JAX. Pure functions of one example, lifted to batches with `jax.vmap`.

    irob.batches         whole batches in one call: attack, evaluate, check
    irob.auto_attack     likewise: autoattack
    irob.models          networks by name, MODELS; your own by from_linen, from_nnx, from_function; with parameters, bind
    irob.maps            interpretation maps: CAM, Grad-CAM(++), LayerCAM, saliency, integrated and expected gradients, SmoothGrad; by name
    irob.losses          cross-entropy, KL divergence, logit margin, DLR
    irob.discrepancies   how far two interpretations are apart; Proposition 1
    irob.similarities    how alike two maps are: overlap, rank correlations, cosine, SSIM
    irob.attacks         balls, PGD, Auto-PGD, FAB, Square and more by name; sneaking and map attacks, inversion, unforeseen attacks
    irob.defenses        training methods as data: DEFENSES, from_terms
    irob.certify         bounds of logits and maps over whole balls; randomized smoothing
    irob.metrics         proportions with their intervals; metrics of explanations
    irob.paper           what exists only to repeat the authors of the paper: their weight files, draws and attacks
    irob.types           Explanation = (maps, logits), array types, the Model protocol
    irob.convolutions    fast forms of a convolution
    irob.rewriting       any network as a fast function of x, also with softplus for relu

The names that one types daily are here, too. Images are `[H, W, c]` in [0, 1], labels integers, maps `[h, w, C]`. Losses and objectives: larger =
worse for the classifier.

>>> import irob, jax
>>> network = irob.create("small", input_shape=(8, 8, 1), num_classes=3)
>>> explain = network.frozen(network.initial_params(seed=99))
>>> x = jax.numpy.full((8, 8, 1), 0.5)
>>> x_adv = irob.pgd(lambda z: irob.margin_loss(explain(z).logits, 0), irob.LInf(0.1), x, step_sizes=irob.constant_steps(0.02, 10))
>>> bool(jax.numpy.max(jax.numpy.abs(x_adv - x)) <= 0.1 + 1e-6)
True
"""

from irob import (
    attacks,
    auto_attack,
    batches,
    certify,
    convolutions,
    defenses,
    discrepancies,
    losses,
    maps,
    metrics,
    models,
    paper,
    rewriting,
    similarities,
    types,
)
from irob.attacks import L1, L2, LInf, best_of_pgd, constant_steps, decaying_steps, pgd, sneaking_attack
from irob.auto_attack import autoattack
from irob.batches import attack, check, evaluate
from irob.defenses import DEFENSES, from_terms
from irob.discrepancies import discrepancy, proposition_1_sides, two_class
from irob.losses import cross_entropy, margin_loss
from irob.maps import explainer, integrated_gradients
from irob.metrics import robust_accuracy
from irob.models import bind, create
from irob.similarities import kendall_tau
from irob.types import Explanation

__version__ = "0.14.1"
__all__ = [
    "DEFENSES",
    "L1",
    "L2",
    "Explanation",
    "LInf",
    "attack",
    "attacks",
    "auto_attack",
    "autoattack",
    "batches",
    "best_of_pgd",
    "bind",
    "certify",
    "check",
    "constant_steps",
    "convolutions",
    "create",
    "cross_entropy",
    "decaying_steps",
    "defenses",
    "discrepancies",
    "discrepancy",
    "evaluate",
    "explainer",
    "from_terms",
    "integrated_gradients",
    "kendall_tau",
    "losses",
    "maps",
    "margin_loss",
    "metrics",
    "models",
    "paper",
    "pgd",
    "proposition_1_sides",
    "rewriting",
    "robust_accuracy",
    "similarities",
    "sneaking_attack",
    "two_class",
    "types",
]
