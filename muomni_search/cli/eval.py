"""`muomni eval`: how well a space finds, what it knows of words and labels, and its shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from muomni_search.cli.options import (
    INPUT_FILE,
    OUTPUT_FILE,
    Command,
    collection_option,
    count_option,
    json_option,
    where_option,
)
from muomni_search.cli.output import note, on_terminal, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from muomni_search import Collection, Model
    from muomni_search.evaluation.figures import Figure, Report
    from muomni_search.filters import Filter

    Measured = Callable[[Collection, Filter | None], Report]

SAME_HELP = "metadata name, or `folder` or `stem` of the key"

models_option = click.option(
    "--model",
    "models",
    metavar="NAME|PATH",
    multiple=True,
    default=("base",),
    show_default=True,
    help="The model; several are compared with the first.",
)
# Without one the collection's vectors are measured as they are.
encoding_option = click.option(
    "--model",
    "models",
    metavar="NAME|PATH",
    multiple=True,
    help="Encode the items again with this model; several are compared with the first.",
)
metric_option = click.option(
    "--metric",
    "metrics",
    metavar="NAME",
    multiple=True,
    default=("recall@10", "ndcg@10", "mrr"),
    show_default=True,
    help="recall@k, success@k, ndcg@k, mrr or mrr@k; may be repeated.",
)
seed_option = count_option("--seed", least=0, default=0, help="Of folds.")


@click.group("eval")
def command() -> None:
    """Measure a space: finding, words, labels, shape.

    Each figure comes with its 95 % bootstrap interval. Several --model (or runs) are measured on
    the same things, and each is compared with the first by a paired bootstrap: where the interval
    of a difference leaves out 0, it is no chance.
    """


# ---- finding ---------------------------------------------------------------------------------


@command.command(
    "retrieval",
    cls=Command,
    example="""\
muomni eval retrieval -c indexes/demo --same stem --heatmap demo.png
muomni eval retrieval --qrels judged.qrels --queries queries.jsonl --metric ndcg@10""",
)
@click.option("--qrels", metavar="FILE", type=INPUT_FILE, help="TREC judgements of keys.")
@click.option("--same", metavar="FIELD", help=f"What is alike is relevant: {SAME_HELP}.")
@click.option(
    "--queries", metavar="FILE", type=INPUT_FILE, help="Queries of --qrels, as for `batch`."
)
@metric_option
@click.option("--heatmap", metavar="F.png", type=OUTPUT_FILE, help="Also draw the first metric.")
@where_option
@json_option
@encoding_option
@collection_option
def retrieval(
    qrels: Path | None,
    same: str | None,
    queries: Path | None,
    metrics: tuple[str, ...],
    heatmap: Path | None,
    where: str | None,
    as_json: bool,
    models: tuple[str, ...],
    directory: Path,
) -> None:
    """Measure how well each modality finds each other.

    What is relevant is said by --qrels, lines of `query_id 0 key relevance` (white space in names
    is %20), where the queries are items by key or those of --queries; or by --same: items with
    the same label are relevant to each other. An item does not find itself. The row says what asks,
    the column what is asked for, `any` is a search in everything at once.
    """
    if (qrels is None) == (same is None):
        raise click.UsageError("say what is relevant with either --qrels or --same")
    if queries is not None and qrels is None:
        raise click.UsageError("--queries needs --qrels: only they say what is relevant to a query")
    from muomni_search import Collection
    from muomni_search.evaluation.heatmap import check_heatmap, write_heatmap
    from muomni_search.evaluation.relevance import check_judged, read_qrels, same_label
    from muomni_search.evaluation.retrieval import evaluate_retrieval, measure_named

    for name in metrics:
        measure_named(name)
    with Collection.open(directory) as collection:
        if heatmap is not None:
            collection.check_output(heatmap)
            check_heatmap(heatmap)
        if qrels is not None:
            judged: Mapping[str, Mapping[str, int]] = read_qrels(qrels)
            check_judged(collection, judged, qrels, asks_items=queries is None)
        else:
            judged = same_label(collection, str(same), where)
        reports = _of_collections(
            collection,
            models,
            where,
            lambda one, shared: evaluate_retrieval(
                one, judged, queries=queries, measures=metrics, where=shared
            ),
        )
    if heatmap is not None:
        drawn = {name: report.figures for name, report in reports.items()}
        write_heatmap(heatmap, drawn, metrics[0].lower())
        note(f"heat map: {heatmap}")
    _print("model", reports, as_json)


@command.command(
    "run",
    cls=Command,
    example="""\
muomni eval run answers.trec --qrels judged.qrels --metric recall@100
muomni eval run before.trec after.trec --qrels judged.qrels""",
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=INPUT_FILE)
@click.option("--qrels", metavar="FILE", required=True, type=INPUT_FILE, help="TREC judgements.")
@metric_option
@json_option
def run(runs: tuple[Path, ...], qrels: Path, metrics: tuple[str, ...], as_json: bool) -> None:
    """Measure what `muomni batch` has written.

    RUN is its .trec, .jsonl or .parquet, or any other TREC run. Ranked and counted as trec_eval
    does, save that queries without anything relevant are left out. Several runs are compared
    with the first.
    """
    from muomni_search.evaluation.figures import Report
    from muomni_search.evaluation.relevance import read_qrels
    from muomni_search.evaluation.retrieval import evaluate

    judged = read_qrels(qrels)
    reports = {
        str(one): Report(list(evaluate(one, judged, metrics).values()))
        for one in dict.fromkeys(runs)
    }
    _print("run", reports, as_json)


# ---- words -----------------------------------------------------------------------------------


@command.command(
    "pairs", cls=Command, example="muomni eval pairs wordsim353.tsv simlex999.txt --model base"
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=INPUT_FILE)
@json_option
@models_option
def pairs(files: tuple[Path, ...], as_json: bool, models: tuple[str, ...]) -> None:
    """Compare cosines with human ratings of word pairs.

    FILE holds a word, another, and a rating a line, between tabs or commas: WordSim-353 and
    SimLex-999 as they are published, or your own. Prints Spearman's and Pearson's correlation.
    """
    from muomni_search.evaluation.words import evaluate_pairs

    _print("model", _of_models(models, files, evaluate_pairs), as_json)


@command.command("analogies", cls=Command, example="muomni eval analogies questions-words.txt")
@click.argument("file", metavar="FILE", type=INPUT_FILE)
@click.option(
    "--candidates", metavar="FILE", type=INPUT_FILE, help="More words to choose among, one a line."
)
@json_option
@models_option
def analogies(file: Path, candidates: Path | None, as_json: bool, models: tuple[str, ...]) -> None:
    """Count how often king − man + woman is nearest to queen.

    FILE holds four words a line, in sections that `: name` begins (Google's questions-words.txt).
    Chosen among are the words of the file, without the three that are given.
    """
    from muomni_search.evaluation.words import evaluate_analogies, read_words

    words = None if candidates is None else read_words(candidates)
    reports = _of_models(
        models, [file], lambda model, path: evaluate_analogies(model, path, candidates=words)
    )
    _print("model", reports, as_json)


@command.command("contexts", cls=Command, example="muomni eval contexts --model base")
@click.argument("file", metavar="[FILE]", required=False, type=INPUT_FILE)
@json_option
@models_option
def contexts(file: Path | None, as_json: bool, models: tuple[str, ...]) -> None:
    """Tell the bank of a river from a bank account.

    FILE holds three texts a line, between tabs: one, another with its word in the same sense, one
    with the word in another sense; by default 40 lines of our own. Prints how often the first
    lies nearer to the second than to the third; chance is one half.
    """
    from muomni_search.evaluation.words import CONTEXTS, evaluate_contexts

    _print("model", _of_models(models, [file or CONTEXTS], evaluate_contexts), as_json)


# ---- labels and shape ------------------------------------------------------------------------


@command.command("labels", cls=Command, example="muomni eval labels -c indexes/demo --label folder")
@click.option("--label", metavar="FIELD", required=True, help=f"The labels: {SAME_HELP}.")
@count_option("--folds", least=2, default=5, help="Parts of the cross-validation.")
@count_option("--neighbors", default=5, help="How many items vote.")
@click.option(
    "--prompt",
    metavar="TEXT",
    default="{}",
    show_default=True,
    help="What a label is put into before it is embedded.",
)
@seed_option
@where_option
@json_option
@encoding_option
@collection_option
def labels(
    label: str,
    folds: int,
    neighbors: int,
    prompt: str,
    seed: int,
    where: str | None,
    as_json: bool,
    models: tuple[str, ...],
    directory: Path,
) -> None:
    """Classify items by their vectors, and by names alone.

    Of each modality, the share of items that get their label: from the nearest items (knn) and
    from a logistic regression, both cross-validated, from the commonest label (majority), and
    from the label whose name is nearest (zero-shot).
    """
    from muomni_search import Collection
    from muomni_search.evaluation.labels import evaluate_labels

    with Collection.open(directory) as collection:
        reports = _of_collections(
            collection,
            models,
            where,
            lambda one, shared: evaluate_labels(
                one,
                label,
                folds=folds,
                neighbours=neighbors,
                prompt=prompt,
                seed=seed,
                where=shared,
            ),
        )
    _print("model", reports, as_json)


@command.command("shape", cls=Command, example="muomni eval shape -c indexes/demo --same stem")
@click.option("--same", metavar="FIELD", help=f"What belongs together: {SAME_HELP}.")
@count_option("-k", default=10, help="Neighbours that hubness looks at.")
@seed_option
@where_option
@json_option
@encoding_option
@collection_option
def shape(
    same: str | None,
    k: int,
    seed: int,
    where: str | None,
    as_json: bool,
    models: tuple[str, ...],
    directory: Path,
) -> None:
    """Measure the gap between modalities, rank, hubs.

    Of each modality the effective rank and the uniformity, of each two the gap between their
    means, how well a plane separates them and, with --same, the alignment of what belongs
    together; and how much a few items are found for everything (hubness).
    """
    from muomni_search import Collection
    from muomni_search.evaluation.shape import evaluate_shape

    with Collection.open(directory) as collection:
        reports = _of_collections(
            collection,
            models,
            where,
            lambda one, shared: evaluate_shape(one, same=same, k=k, seed=seed, where=shared),
        )
    _print("model", reports, as_json)


# ---- measuring -------------------------------------------------------------------------------


def _of_models(
    names: Sequence[str], files: Sequence[Path], measure: Callable[[Model, Path], Report]
) -> dict[str, Report]:
    """Measure each model on all files."""
    from muomni_search import load_model
    from muomni_search.evaluation.figures import Report

    reports = {}
    for name in dict.fromkeys(names):
        model = load_model(name)
        parts = [measure(model, path) for path in dict.fromkeys(files)]
        reports[name] = Report(
            [figure for part in parts for figure in part.figures],
            [line for part in parts for line in part.notes],
        )
    return reports


def _of_collections(
    collection: Collection, names: Sequence[str], where: str | None, measure: Measured
) -> dict[str, Report]:
    """Measure a collection as it is, or as each of several models sees the items that all do."""
    from muomni_search.evaluation.subjects import common_items

    with _seen_with(collection, names, where) as seen:
        shared = common_items([collection, *seen.values()], where)
        lost = sum(1 for _ in collection.items(where=where))
        lost -= sum(1 for _ in collection.items(where=shared))
        if lost:
            note(
                f"{lost:,} items are left out: they cannot be encoded again, for they came as "
                "vectors, or their files changed"
            )
        return {name: measure(one, shared) for name, one in seen.items()}


@contextmanager
def _seen_with(
    collection: Collection, names: Sequence[str], where: str | None
) -> Iterator[dict[str, Collection]]:
    from muomni_search.evaluation.subjects import encoded_with

    if not names:
        yield {str(collection.stats()["model"]["name"]): collection}
        return
    with ExitStack() as stack:
        seen = {}
        for name in dict.fromkeys(names):
            with progress_bar("items") as progress:
                seen[name] = stack.enter_context(
                    encoded_with(collection, name, where=where, progress=progress)
                )
        yield seen


# ---- printing --------------------------------------------------------------------------------


def _print(subject: str, reports: Mapping[str, Report], as_json: bool) -> None:
    """Print the figures of each model or run, and what each has more than the first.

    Args:
        subject: What the names are of.
        reports: What was measured, by name.
        as_json: Whether programs read it.
    """
    from muomni_search.evaluation.figures import differences

    first, *others = reports
    measured = [
        ({subject: name}, figure) for name, report in reports.items() for figure in report.figures
    ]
    measured += [
        ({subject: name, "minus": first}, figure)
        for name in others
        for figure in differences(reports[first].figures, reports[name].figures)
    ]
    if not on_terminal(as_json):
        for names, figure in measured:
            print_json({**names, **figure.as_dict()})
    else:
        for kind in dict.fromkeys(tuple(figure.of) for _, figure in measured):
            alike = [(names, figure) for names, figure in measured if tuple(figure.of) == kind]
            _print_table([*kind, *([subject] if others else [])], alike)
    for name, report in reports.items():
        for line in report.notes:
            note(f"{name}: {line}" if others else line)


def _print_table(
    titles: Sequence[str], measured: Sequence[tuple[Mapping[str, str], Figure]]
) -> None:
    """Print figures of one kind of thing: a row a thing and a model, a column a metric."""
    metrics = list(dict.fromkeys(figure.metric for _, figure in measured))
    things = list(dict.fromkeys(tuple(figure.of.values()) for _, figure in measured))
    rows: dict[tuple[str, ...], dict[str, tuple[Figure, str]]] = {}
    for names, figure in measured:
        # A difference is named after both; what was measured of the same thing stands together.
        row = (*figure.of.values(), " − ".join(names.values()))
        signed = "+" if len(names) > 1 else ""
        rows.setdefault(row, {})[figure.metric] = (figure, signed)
    lines = []
    for row, found in sorted(rows.items(), key=lambda one: things.index(one[0][:-1])):
        n = next(iter(found.values()))[0].n
        cells = [_cell(*found[name], n) if name in found else "" for name in metrics]
        lines.append([*row[: len(titles)], f"{n:,}", *cells])
    print_table(
        [*titles, "n", *metrics],
        lines,
        right=("n", *metrics),
        cut=[name for name in titles if name in ("file", "run", "model")],
    )


def _cell(figure: Figure, signed: str, n: int) -> str:
    """Return a figure as a table shows it; how many it is of, where that differs from its row."""
    value = f"{figure.value:{signed}.3f}".replace("nan", "–")
    other = "" if figure.n == n else f" (n {figure.n:,})"
    if figure.interval is None:
        return value + other
    low, high = figure.interval
    return f"{value} [{low:.2f}, {high:.2f}]{other}"
