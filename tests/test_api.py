"""What `import irob` promises."""

import importlib
import inspect
import pkgutil
import re

import pytest

import irob

NAMESPACES = {name for name in irob.__all__ if inspect.ismodule(getattr(irob, name))}
FLAT = set(irob.__all__) - NAMESPACES
# The functions that people call most: one line, the mathematics, Args, Returns, an example where one fits in a few lines.
TEMPLATE = [
    *("losses.cross_entropy", "losses.kl_divergence", "losses.margin_loss", "losses.dlr"),
    *("maps.cam", "maps.scale_to_logits", "maps.saliency", "maps.integrated_gradients", "maps.smooth_grad", "maps.explainer"),
    *("discrepancies.discrepancy", "discrepancies.proposition_1_sides", "discrepancies.one_class", "discrepancies.two_class"),
    *("discrepancies.soft_two_class", "discrepancies.top_k_pixels", "similarities.kendall_tau", "similarities.pearson"),
    *("similarities.spearman", "similarities.cosine", "similarities.ssim"),
    *("attacks.pgd", "attacks.best_of_pgd", "attacks.smallest_eps", "attacks.bisect"),
    *("models.create", "models.CAMNetwork.explain", "models.CAMNetwork.frozen"),
    *("attacks.sneaking_attack", "attacks.top_k_map_attack", "maps.expected_gradients", "maps.gradient_x_input", "losses.half_logit_gap"),
    *("batches.attack", "batches.evaluate", "batches.check", "auto_attack.autoattack", "metrics.mcnemar", "losses.dlr_to"),
    *("defenses.from_terms", "metrics.robust_accuracy", "metrics.wilson_interval"),
]
WITHOUT_EXAMPLE = ["attacks.invert", "maps.grad_cam"]


def named(path):
    thing = irob
    for part in path.split("."):
        thing = getattr(thing, part)
    return thing


def test_namespaces_and_the_names_that_one_types_daily():
    assert {module.name for module in pkgutil.iter_modules(irob.__path__)} == NAMESPACES
    assert 15 <= len(FLAT) <= 27
    for name in FLAT:
        assert any(getattr(getattr(irob, space), name, None) is getattr(irob, name) for space in NAMESPACES), name


def test_signatures_are_readable_in_help():
    """Types by their names, not as the unions that they stand for."""
    for name in FLAT:
        if inspect.isfunction(getattr(irob, name)):
            assert len(str(inspect.signature(getattr(irob, name)))) < 500, name


def test_the_overview_names_every_namespace():
    described = re.findall(r"^    irob\.(\w+)", irob.__doc__, flags=re.MULTILINE)
    assert set(described) == NAMESPACES and len(described) == len(NAMESPACES)


def own_docstring(thing):
    """The docstring that was written, not the one that Python makes of the fields of a record."""
    made = f"{thing.__name__}({', '.join(getattr(thing, '_fields', ()))})"
    return None if thing.__doc__ in (None, made) else thing.__doc__


def test_every_public_thing_has_a_docstring_of_its_own():
    seen = 0
    for module in pkgutil.walk_packages(irob.__path__, "irob."):
        for name, thing in vars(importlib.import_module(module.name)).items():
            if not name.startswith("_") and (inspect.isfunction(thing) or inspect.isclass(thing)) and thing.__module__ == module.name:
                assert own_docstring(thing), f"{module.name}.{name}"
                seen += 1
    assert seen > 130


def test_the_check_of_docstrings_can_fail():
    import collections

    assert own_docstring(collections.namedtuple("Bare", "a b")) is None


@pytest.mark.parametrize("path", TEMPLATE + WITHOUT_EXAMPLE)
def test_the_most_used_functions_follow_the_template(path):
    function = named(path)
    text = inspect.getdoc(function)
    parameters = [name for name in inspect.signature(function).parameters if name != "self"]
    arguments = re.search(r"^Args:\n((?:  .*\n|\n)+)", text, flags=re.MULTILINE)
    assert arguments, "no Args"
    documented = re.findall(r"\w+", " ".join(line.split(":")[0] for line in re.findall(r"^  \w.*", arguments[1], flags=re.MULTILINE)))
    assert set(parameters) <= set(documented), f"not in Args: {set(parameters) - set(documented)}"
    assert "Returns:" in text or path == "maps.grad_cam", "no Returns"
    assert ("https://" in text) or path in (
        *(
            "losses.margin_loss",
            "losses.cross_entropy",
            "discrepancies.discrepancy",
            "discrepancies.one_class",
            "discrepancies.top_k_pixels",
        ),
        *(
            "similarities.pearson",
            "similarities.cosine",
            "attacks.best_of_pgd",
            "attacks.smallest_eps",
            "maps.explainer",
            "models.create",
            "models.CAMNetwork.explain",
        ),
        *("models.CAMNetwork.frozen", "defenses.from_terms", "metrics.robust_accuracy"),
    ), "no source"
    assert (">>>" in text) == (path in TEMPLATE), "an example"


def test_all_names_of_a_namespace_exist():
    for space in NAMESPACES:
        module = getattr(irob, space)
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"irob.{space}.{name}"


def test_the_citation_is_of_this_version():
    from conftest import ROOT

    assert f"\nversion: {irob.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version = {{{irob.__version__}}}" in (ROOT / "README.md").read_text()


def test_the_readme_counts_what_there_is():
    from conftest import ROOT

    text = (ROOT / "README.md").read_text()
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    of_autoattack = {"apgd", "fab", "square"}
    assert f"| by {len(set(irob.DEFENSES) - {'normal'})} methods |" in text
    assert f"| {words[len(irob.maps.EXPLAINERS)]} maps |" in text and f"| {words[len(irob.attacks.MAP_ATTACKS)]}, and the sneaking" in text
    assert f"AutoAttack and {words[len(set(irob.attacks.ATTACKS) - of_autoattack)]} more by name" in text


def test_the_page_of_mathematics_names_every_method_and_map():
    from conftest import ROOT

    text = (ROOT / "experiments" / "guide" / "mathematics.md").read_text()
    assert [name for name in (*irob.DEFENSES, *irob.maps.EXPLAINERS) if f"`{name}`" not in text] == []
