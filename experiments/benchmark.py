"""Times ours beside its peers, interleaved in one run, and compares both with the floor of this machine.

    python -m experiments.benchmark [--only NAME,...] [--rounds N] [--full_precision] [--out FILE.json] [--figure FILE.png]

Each group runs its contenders in turn, A B A B ..., ours in this process and the peers in another, after one warm-up each (which holds the
compilation), and prints medians with their spread and the ratio to ours. Peers come with the extra `benchmark`; those that are not installed are left
out with a message. FILE.json is written anew after each group, so an interrupted run keeps what it has measured.
"""

import functools
import json
import os
import pathlib
import platform
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

from experiments.benchmarks.groups import ACCELERATOR_GROUPS, GROUPS
from experiments.benchmarks.scaling import scaling
from experiments.benchmarks.timing import OURS, PEER_PACKAGES, Peers, clocked, timed
from experiments.benchmarks.training_groups import LARGE_STEPS, STEPS
from experiments.runtime.errors import UserError
from experiments.runtime.flags import run_command

NAMES = (*GROUPS, *ACCELERATOR_GROUPS, "scaling")


def result_of(name: str, rounds: int, least: float) -> dict[str, Any]:
    """Times the contenders of one group."""
    from experiments.benchmarks import floors

    group = (GROUPS | ACCELERATOR_GROUPS)[name]()
    peak = floors.matmul_peak()
    load = os.getloadavg()[0]
    with Peers(group.peers, group.arguments) as peers:
        runs: dict[str, Callable[[], tuple[float, Any]]] = {OURS: functools.partial(clocked, group.ours)}
        timings, returned = timed(runs | {name: functools.partial(peers.run, name) for name in peers.names}, rounds, least)
    ours = timings[OURS].median
    result: dict[str, Any] = {
        "name": name,
        "title": group.title,
        "load": load,
        "matmul_peak": peak,
        "contenders": {
            who: {
                "median": t.median,
                "min": min(t.later),
                "max": max(t.later),
                "first": t.first,
                "rounds": len(t.later),
                "ratio": t.median / ours,
            }
            for who, t in timings.items()
        },
    }
    if group.cost is not None:
        floor = group.cost.operations / peak
        result |= {"operations": group.cost.operations, "bytes": group.cost.bytes, "floor": floor, "fraction_of_floor": floor / ours}
    if group.check is not None:
        result["check"] = group.check(returned)
    return result


def lines_of(result: dict[str, Any]) -> Iterator[str]:
    """The lines that show one group."""
    yield result["title"]
    if "scaling" in result:
        yield f"  {'':22}{'':>11}{'median ms':>11}{'memory MB':>11}"
        for row in result["scaling"]:
            yield f"  {row['what']:22}{row['value']:>11}{1e3 * row['seconds']:11.1f}{row['memory'] / 1e6:11.0f}"
        known = {what: p for what, p in result["exponents"].items() if p is not None}
        yield "  time grows as its power: " + ", ".join(f"{what} {p:.2f}" for what, p in known.items())
        return
    yield f"  {'':22}{'median ms':>11}{'min':>9}{'max':>9}{'first call':>12}{'x ours':>8}"
    for who, t in result["contenders"].items():
        yield f"  {who:22}{1e3 * t['median']:11.2f}{1e3 * t['min']:9.2f}{1e3 * t['max']:9.2f}{1e3 * t['first']:12.0f}{t['ratio']:8.2f}"
    if "floor" in result:
        yield (
            f"  {result['operations'] / 1e9:.2f} GFLOP, {result['bytes'] / 1e6:.1f} MB of activations; floor {1e3 * result['floor']:.2f} ms at"
            f" {result['matmul_peak'] / 1e9:.0f} GFLOP/s; ours runs at {result['fraction_of_floor']:.0%} of it"
        )
    if "check" in result:
        yield f"  {result['check']}"


def figure_of(results: list[dict[str, Any]], file: pathlib.Path) -> None:
    """A bar for each peer: how many times the time of ours it takes."""
    from experiments.reports import figures

    bars = [(f"{r['title']}\n{who}", t["ratio"]) for r in results for who, t in r["contenders"].items() if who != OURS]
    figure, ((axes,),) = figures.subplots(1, 1, 8, 0.5 * len(bars) + 1.2)
    axes.barh([name for name, _ in bars], [ratio for _, ratio in bars])
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlabel("time over ours, medians of one interleaved run")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    figures.save(figure, file)


def main() -> None:
    """Parses flags, times, prints and writes."""
    os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")  # first calls are to show what compilation costs
    import jax

    from experiments.runtime import devices, provenance, storage
    from irob.convolutions import on_cpu

    flag = flags.FLAGS
    steps = (STEPS | LARGE_STEPS).items()
    devices.use_cores(*(of.batch for step, of in steps if any(name.startswith(step) for name in flag.only or GROUPS)))
    if flag.full_precision:
        jax.config.update("jax_default_matmul_precision", "highest")
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # of the peers, too, whose process inherits it
    names = flag.only or (*GROUPS, *(("scaling",) if on_cpu() else ACCELERATOR_GROUPS))  # scaling counts fake devices
    for name in names:
        if name not in NAMES:
            raise UserError(f"--only: there is no group {name!r}: choose from {', '.join(NAMES)}")
    for name, file in (("out", flag.out), ("figure", flag.figure)):
        if file and pathlib.Path(file).exists():
            raise UserError(f"--{name} {file} exists: give another")
    if flag.figure and pathlib.Path(flag.figure).suffix not in (".png", ".svg"):
        raise UserError(f"--figure {flag.figure}: must end in .png or .svg")
    if flag.rounds < 1:
        raise UserError(f"--rounds={flag.rounds} must be positive")
    print(
        f"{devices.describe_devices()}, {os.cpu_count()} cores, {platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.2f}"
    )
    found: list[dict[str, Any]] = []
    whole = {
        "device": devices.describe_devices(),
        "versions": provenance.versions(*PEER_PACKAGES),
        "git_revision": provenance.git_revision(),
        "full_precision": flag.full_precision,
        "groups": found,
    }
    for name in names:
        found.append(scaling(flag.rounds) if name == "scaling" else result_of(name, flag.rounds, flag.least))
        print("\n" + "\n".join(lines_of(found[-1])), flush=True)
        if flag.out:
            storage.save_text(pathlib.Path(flag.out), json.dumps(whole, indent=1) + "\n")
    if flag.out:
        print(f"written to {flag.out}")
    if flag.figure and any(len(r["contenders"]) > 1 for r in found):
        figure_of(found, pathlib.Path(flag.figure))


if __name__ == "__main__":
    flags.DEFINE_list("only", None, "groups, by name (default: all)")
    flags.DEFINE_integer("rounds", 7, "how often each contender runs, at least")
    flags.DEFINE_float("least", 2.0, "seconds that each contender runs, at least")
    flags.DEFINE_bool(
        "full_precision", False, "on GPUs: products of float32 in full, without the rounding to TF32 that ours and the peers' do"
    )
    flags.DEFINE_string("out", None, "where the numbers go, as JSON")
    flags.DEFINE_string("figure", None, "where a bar chart goes, as PNG or SVG")
    run_command(main)
