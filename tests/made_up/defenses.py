"""A defense: no position of the true class's map may change much."""

from irob.defenses import clean_loss, from_terms, scaled, total
from irob.discrepancies import discrepancy, one_class
from made_up.discrepancies import largest


def int_largest(weight: float = 0.1):
    """Robust interpretation where it changes most."""

    def change(clean, adversarial, label):
        weights = one_class(label, clean.logits.shape[-1])
        return discrepancy(clean.maps, adversarial.maps, weights, norm=largest)

    term = scaled(weight, change)
    return from_terms(term, total(clean_loss, term), compares_maps=True)
