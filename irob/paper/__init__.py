"""What exists only to repeat the authors of Boopathy et al. 2020 (https://arxiv.org/abs/2006.14748): their weight files, draws and attacks."""

from irob.paper.attacks import PAPER_PGD, ClippedLInf, largest_weight, logsumexp_cross_entropy, right_riemann
from irob.paper.draws import PaperDraw
from irob.paper.weights import ReleasedWeights, dumps, loads

__all__ = [
    "PAPER_PGD",
    "ClippedLInf",
    "PaperDraw",
    "ReleasedWeights",
    "dumps",
    "largest_weight",
    "loads",
    "logsumexp_cross_entropy",
    "right_riemann",
]
