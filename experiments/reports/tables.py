"""Tables of a report, and what the tables of several measures share."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.reports.entries import Entry, by_label
from experiments.reports.records import OUTCOMES, Record, hidden_gradients
from experiments.reports.seeds import SEVERAL
from experiments.runtime.errors import refuse
from experiments.runtime.storage import slug


class Cell(NamedTuple):
    """text: of the cell. best: whether it is the best of its column."""

    text: str
    best: bool = False


class Table(NamedTuple):
    """name: of its files. notes: below it. rows: of cells, under a header. The first two columns are network and protocol."""

    name: str
    title: str
    header: list[str]
    rows: list[list[Cell]]
    notes: list[str]


def value_text(record: Record | None, with_n: bool = False) -> str:
    """A record as text: value and interval, and n if it differs between cells."""
    if record is None:
        return ""
    if record.value is None:
        return f"- (n {record.n})" if with_n else "-"
    text = f"{record.value:.3f}" + (f" [{record.ci95[0]:.3f}, {record.ci95[1]:.3f}]" if record.ci95 else "")
    return f"{text} (n {record.n})" if with_n else text


def field_text(record: Record, field: str) -> str:
    """A field of a record as text; nothing where it has none."""
    value = record.get(field)
    if value is None:
        return "-" if field in ("value", "ci95", "median") else ""
    if field == "ci95":
        return f"[{value[0]:.3f}, {value[1]:.3f}]"
    if isinstance(value, float):
        return f"{value:.4f}" if field in ("eps", "budget") else f"{value:.3f}"
    return str(value)


def cells(texts: Iterable[str]) -> list[Cell]:
    """A row of plain cells."""
    return [Cell(text) for text in texts]


def table_of_columns(name: str, title: str, columns: Sequence[tuple[str, str]], entries: Sequence[Entry]) -> Table:
    """A row per record of a measure, a column per field.

    Args:
      name: of the measure.
      columns: (heading, field of a record).
    """
    rows = [
        cells([entry.label, entry.protocol, *(field_text(record, field) for _, field in columns)])
        for entry in by_label(entries)
        for record in entry.records()
    ]
    return Table(slug(name), title, ["network", "protocol", *(heading for heading, _ in columns)], rows, coverage(entries))


def eps_table(
    name: str,
    title: str,
    columns: Sequence[tuple[str, str]],
    entries: Sequence[Entry],
    metric: str,
    clean: str | None = None,
    *,
    notes: Sequence[str],
    with_n: bool = False,
) -> Table:
    """A row for each combination of some fields, a column for each of these and for each eps.

    The best value of an eps is marked, among rows that differ in the network alone.

    Args:
      columns: (heading, field of a record) of the fields that a row is of.
      entries: of one measure.
      metric: of the records.
      clean: the metric of records that belong to every row of a network, or are its only row.
      with_n: whether n differs between eps, so that each value has its own.

    Raises:
      UserError: if two records would be in one cell.
    """
    lines: dict[tuple[str, ...], dict[float, Record]] = {}
    for entry in entries:
        shared = entry.records(clean) if clean else []
        for record in entry.records(metric) or shared:
            key = (entry.label, entry.protocol, *(field_text(record, field) for _, field in columns))
            by_eps = lines.setdefault(key, {each["eps"]: each for each in shared})
            other = by_eps.setdefault(record["eps"], record)
            differing = [field for field in record.settings if record[field] != other.get(field) and field not in OUTCOMES]
            refuse(
                bool(differing),
                f"two results have {metric} of {entry.label} at eps {record['eps']:g} under the {entry.protocol} protocol, with other"
                f" {', '.join(differing)}: report them one at a time",
            )
    ladder = sorted({eps for by_eps in lines.values() for eps in by_eps})
    competing: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for (_, *same), by_eps in lines.items():
        for eps, record in by_eps.items():
            if record.value is not None:
                competing[*same, eps].append(record.value)

    def cell(key: tuple[str, ...], eps: float) -> Cell:
        record, values = lines[key].get(eps), competing[*key[1:], eps]
        best = record is not None and len(values) > 1 and min(values) < max(values) == record.value
        return Cell(value_text(record, with_n), best)

    order = (lambda key: (key[0], *key[2:], key[1])) if with_n else (lambda key: key)
    header = ["network", "protocol", *(heading for heading, _ in columns), *(f"eps {eps:.4g}" for eps in ladder)]
    rows = [[*cells(key), *(cell(key, eps) for eps in ladder)] for key in sorted(lines, key=order)]
    return Table(name, title, header, rows, [*notes, *coverage(entries)])


def protocols_side_by_side(rows: list[list[Cell]], names: int) -> list[list[Cell]]:
    """Rows in an order that puts the protocols of one thing side by side. names: how many of the first cells say what a row is of."""
    return sorted(rows, key=lambda row: [cell.text for cell in (row[0], *row[2:names], row[1])])


def coverage(entries: Sequence[Entry]) -> list[str]:
    """Notes on rows of several seeds, on networks that were measured under `paper` alone, and on networks that hide their gradients."""
    by_network: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        by_network[entry.label].add(entry.protocol)
    alone = sorted(label for label, protocols in by_network.items() if protocols == {"paper"})
    several = any(record.get("seeds") for entry in entries for record in entry.records())
    notes = [SEVERAL] if several else []
    notes += [f"Measured under `paper` alone, which says little: {', '.join(alone)}."] if alone else []
    return notes + [sentence for entry in entries for sentence in not_trusted(entry)]


def not_trusted(entry: Entry) -> list[str]:
    """A sentence on the worst record of an entry whose attacks had no gradient; none if they had."""
    hidden = [record for record in entry.records() if record.get("without_gradient", 0)]
    if not hidden:
        return []
    worst = max(hidden, key=lambda record: record["without_gradient"])
    what = " ".join(dict.fromkeys([worst.measure, str(worst.get("attack") or worst.measure)]))
    where = f"{what}, eps {worst.get('eps', 0.0):.4g}"
    return [f"Not to be trusted: {entry.label} ({entry.protocol}), {where}: {hidden_gradients(worst)}."]


def sources_table(entries: Sequence[Entry]) -> Table:
    """Where every number comes from."""
    rows = []
    for entry in by_label(entries):
        result, made = entry.result, entry.result.provenance
        counts = ", ".join(f"{measure} {info.n}" for measure, info in result.measures.items())
        checkpoint, seconds = made.get("checkpoint") or {}, made["seconds"]
        network = made["weights"]["file"] if made.get("weights") else f"{checkpoint.get('workdir', '?')} step {checkpoint.get('step', '?')}"
        versions = f"irob {made['versions'].get('irob', '?')}, jax {made['versions'].get('jax', '?')}"
        source = f"{result.data['name']}: {result.data.get('from', '?')}"
        run = (made["device"], "?" if seconds is None else f"{seconds:g}", versions, str(made["git_revision"])[:12])
        rows.append(cells([entry.label, entry.protocol, network, counts, str(result.seed), source, *run]))
    header = ["network", "protocol", "from", "images by measure", "seed", "data", "device", "seconds", "versions", "revision"]
    return Table("sources", "Where the numbers come from", header, rows, _descriptions(entries))


def _descriptions(entries: Sequence[Entry]) -> list[str]:
    described: Mapping[tuple[str, str], str] = {
        (entry.protocol, measure): info.description
        for entry in entries
        for measure, info in entry.result.measures.items()
        if info.description
    }
    return [f"`{protocol}`, `{measure}`: {text}" for (protocol, measure), text in sorted(described.items())]
