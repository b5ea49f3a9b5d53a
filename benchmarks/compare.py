"""This engine beside its peers: speed, size and recall, in one table.

    make bench [SIZE=100000]
    nice python benchmarks/compare.py [--size 100000] [--space wordllama] [--engines muomni …]

Vectors are those of WordNet's glosses (``glosses.py``); each engine (``peers.py``) is built, opened
anew and asked in processes of its own (``measure.py``), for at most so many minutes each. Engines
with a knob are asked at the cheapest setting whose recall@10 in distribution is .99 or more, else
at their best. The results are a JSON file, tables in Markdown and two plots.

Others may use the machine, so beside each time on the wall stands the processor's own, and each
engine's line says how busy the machine was and how long a fixed product took (its pace). Compare
ratios within one run only.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from textwrap import fill
from typing import Any

import glosses
import numpy as np
from common import table
from measure import FILTERED, K, Vectors, filters
from peers import ENGINES, setting_text

HERE = Path(__file__).resolve().parent
CPU_LABEL = "processor time of a query, ms"
FEWEST = 20_000
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
Result = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="this engine beside its peers")
    parser.add_argument("--size", type=int, default=100_000, help="rows, up to 1,000,000")
    parser.add_argument(
        "--space",
        choices=glosses.SPACES,
        default="wordllama",
        help="whose vectors; `base` encodes some 50 texts a second at first, and pictures ask it",
    )
    parser.add_argument(
        "--engines",
        nargs="*",
        choices=ENGINES,
        default=list(ENGINES),
        help="those to measure now; the others stay as an earlier run of the same size found them",
    )
    parser.add_argument("--minutes", type=float, default=10, help="for each stage of an engine")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="for the results")
    parser.add_argument("--images", type=Path, help="for the plots; by default beside the results")
    options = parser.parse_args()
    if options.size < FEWEST:
        parser.error(f"--size must be {FEWEST:,} or more, or no row would pass the sharpest filter")
    data = glosses.load(options.space, options.size)
    made = glosses.CACHE / f"{options.space}-{options.size}"
    find_truth(data, made)
    machine = describe()
    print(json.dumps(machine, indent=1), flush=True)
    images = options.images or options.output
    for folder in (options.output, images):
        folder.mkdir(parents=True, exist_ok=True)
    target = options.output / f"{options.space}-{options.size}.json"
    whole: Result = {"engines": {}}
    if target.exists():
        whole = json.loads(target.read_text(encoding="utf-8"))
    results = whole["engines"]
    if not options.engines and not results:
        parser.error(f"{target} is not there yet: name engines to measure")
    for key in options.engines:
        results.update(measure(key, made, options.engines, options.minutes))
        whole = {
            "size": len(data.rows),
            "space": data.space,
            "out": data.out,
            "machine": machine,
            "load_after": os.getloadavg()[0],
            "engines": {one: results[one] for one in ENGINES if one in results},
        }
        target.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    tables = io.StringIO()
    with contextlib.redirect_stdout(tables):
        report(whole)
    print(tables.getvalue())
    target.with_suffix(".md").write_text(tables.getvalue(), encoding="utf-8")
    plot(whole, images / f"peers-{target.stem}")


# ---- measuring -----------------------------------------------------------------------------------


def measure(key: str, made: Path, chosen: Sequence[str], minutes: float) -> dict[str, Result]:
    """Return the results of an engine and of those that read what it built."""
    engine = ENGINES[key]
    if engine.built_by:
        # Asked where the engine is that builds it, if that one is chosen.
        return {}
    missing = absent(key)
    if missing:
        print(f"{engine.name}: left out, {missing}", flush=True)
        return {key: {"left_out": missing}}
    readers = [one for one in chosen if one == key or ENGINES[one].built_by == engine.name]
    results: dict[str, Result] = {one: {"load": os.getloadavg()[0]} for one in readers}
    with tempfile.TemporaryDirectory(dir=glosses.CACHE) as folder:
        steps = [("build", key), *(("ask", one) for one in readers)]
        if len(readers) > 1:
            steps.append(("overhead", key))
        for stage, one in [*steps, ("mix", key)]:
            start = time.perf_counter()
            figures, trouble = stage_of(stage, one, Path(folder), made, minutes)
            results[one] |= figures
            note = f", {trouble}" if trouble else ""
            print(
                f"{ENGINES[one].name}: {stage} {time.perf_counter() - start:.0f} s{note}",
                flush=True,
            )
            if trouble:
                results[one].setdefault("troubles", []).append(f"{stage}: {trouble}")
                if stage == "build":
                    break
    return results


def stage_of(stage: str, key: str, folder: Path, made: Path, minutes: float) -> tuple[Result, str]:
    """Run a stage in a process of its own; return its figures, and what went wrong."""
    output, errors = folder / "figures.jsonl", folder / "errors.txt"
    output.touch()
    command = [
        sys.executable,
        str(HERE / "measure.py"),
        stage,
        key,
        *map(str, (folder, made, output)),
    ]
    trouble = ""
    with errors.open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            child.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            trouble = f"not done in {minutes:g} minutes"
    if child.returncode and not trouble:
        lines = errors.read_text(errors="replace").strip().splitlines()
        trouble = (lines or [f"exit code {child.returncode}"])[-1][:300]
    figures: Result = {}
    for line in output.read_text(encoding="utf-8").splitlines():
        figures |= json.loads(line)
    output.unlink()
    errors.unlink()
    return figures, trouble


def absent(key: str) -> str:
    """Return why an engine cannot be asked here, or nothing."""
    package = ENGINES[key].package
    try:
        version(package)
    except PackageNotFoundError:
        return f"{package} is not installed"
    return ""


def find_truth(data: glosses.Data, made: Path) -> None:
    """Keep the cosine that each query's answers must reach, with each filter too."""
    if (made / "truth.npz").exists():
        return
    print("comparing every query with every row", flush=True)
    rows = np.array(data.rows)
    truth = {kind: glosses.reached(asked, rows, K) for kind, asked in data.queries.items()}
    values = {"share": data.shares, "topic": data.topics}
    asked = data.queries["in"][:FILTERED]
    for name, conditions in filters(Vectors(made)).items():
        least = np.empty(len(conditions))
        for condition in set(conditions):
            field = values[condition.field]
            allowed = np.flatnonzero((field >= condition.low) & (field < condition.high))
            which = [number for number, one in enumerate(conditions) if one == condition]
            least[which] = glosses.reached(asked[which], rows, K, allowed)
        truth[name] = least
    np.savez(made / "truth.npz", **truth)


def describe() -> Result:
    """Return what the figures depend on."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in text.splitlines() if ":" in line
    )
    flags = fields.get("flags", "").split()
    packages = {engine.package for engine in ENGINES.values()}
    versions = {name: version(name) for name in sorted({*packages, "numpy"}) if _is_there(name)}
    return {
        "processor": fields.get("model name", platform.machine()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "versions": versions,
    }


def _is_there(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


# ---- showing -------------------------------------------------------------------------------------


def report(whole: Result) -> None:
    """Print the tables."""
    machine, engines = whole["machine"], whole["engines"]
    versions = ", ".join(f"{name} {one}" for name, one in machine["versions"].items())
    print(
        f"\n{whole['size']:,} rows of {whole['space']}; queries out: {whole['out']}.\n"
        f"{machine['processor']}, {machine['cores']} cores, {' '.join(machine['flags'])}; load "
        f"{machine['load_before']:.1f} before, {whole['load_after']:.1f} after; "
        f"Python {machine['python']}, {versions}"
    )
    shown = {key: one for key, one in engines.items() if "left_out" not in one}
    table(
        ("engine", "setting", "recall in", "out", "p50 ms", "p95", "p99", "CPU ms", "out: p50 ms",
         "CPU ms", "batch/s", "in one call", "CPU ms each", "its recall", "load", "pace ms"),
        map(_queries_row, shown.items()),
    )  # fmt: skip
    table(
        ("engine", "recall in", "vectors/s", "CPU µs each", "× fp32 on disk", "MB resident",
         "of it anonymous", "open + first, ms", "again, all imported", "mixed: added/s", "p50 ms",
         "seen at once"),
        map(_storage_row, shown.items()),
    )  # fmt: skip
    names = list(dict.fromkeys(name for one in shown.values() for name in one.get("filters", {})))
    table(
        ("p50 ms (CPU ms) / recall, short answers", *names),
        ((_name(key), *(_filter_cell(one.get("filters", {}).get(name)) for name in names))
         for key, one in shown.items() if "filters" in one),
    )  # fmt: skip
    print()
    for key, one in engines.items():
        for trouble in one.get("troubles", [one["left_out"]] if "left_out" in one else []):
            print(f"- {_name(key)}: {trouble}")
        if "overhead_ms" in one:
            for clock, figures in one["overhead_ms"].items():
                print(
                    f"- {_name(key)}, {clock} ms, query by query in turns: whole path "
                    f"{figures['whole_p50']:.2f}, planner {figures['planner_p50']:.2f}, "
                    f"difference {figures['difference_p50']:.2f}"
                )


def _name(key: str) -> str:
    return ENGINES[key].name


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _queries_row(item: tuple[str, Result]) -> Iterator[str]:
    key, one = item
    inside, outside, batch = (one.get(name, {}) for name in ("single_in", "single_out", "batch"))
    yield _name(key)
    yield setting_text(one.get("setting"))
    yield _figure(inside.get("recall"), ".4f")
    yield _figure(outside.get("recall"), ".4f")
    for name in ("p50", "p95", "p99"):
        yield _figure(inside.get(name), ".2f")
    yield _figure(inside.get("cpu"), ".2f")
    yield _figure(outside.get("p50"), ".2f")
    yield _figure(outside.get("cpu"), ".2f")
    yield _figure(batch.get("queries_per_s"), ",.0f")
    yield _figure(batch.get("queries"), ",")
    yield _figure(batch.get("cpu"), ".3f")
    yield _figure(batch.get("recall"), ".4f")
    yield _figure(one.get("load"), ".1f")
    yield _figure(one.get("pace_ms"), ".2f")


def _storage_row(item: tuple[str, Result]) -> Iterator[str]:
    key, one = item
    mixed = one.get("mixed", {})
    yield _name(key)
    yield _figure(one.get("single_in", {}).get("recall"), ".4f")
    yield _figure(one.get("vectors_per_s"), ",.0f")
    each = (
        one["build_cpu_s"] / (one["build_s"] * one["vectors_per_s"]) if "build_s" in one else None
    )
    yield _figure(None if each is None else 1e6 * each, ",.0f")
    yield _figure(one.get("of_fp32"), ".2f")
    yield _figure(one.get("resident_mb"), ",.0f")
    yield _figure(one.get("anonymous_mb"), ",.0f")
    for name in ("cold_s", "reopened_s"):
        yield _figure(1e3 * one[name] if name in one else None, ",.0f")
    yield _figure(mixed.get("added_per_s"), ",.0f")
    yield _figure(mixed.get("p50"), ".2f")
    yield _figure(mixed.get("seen"), ".0%")


def _filter_cell(figures: Result | None) -> str:
    if figures is None:
        return "–"
    short = f", {figures['short'] / figures['asked']:.0%} short" if figures["short"] else ""
    return f"{figures['p50']:.2f} ({figures['cpu']:.2f}) / {figures['recall']:.3f}{short}"


def plot(whole: Result, target: Path) -> None:
    """Draw recall against time, and time with filters, into two files beside the results.

    The processor's time, which the work of others changes least.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    engines = {key: one for key, one in whole["engines"].items() if "single_in" in one}
    own = ("muomni", "planner")
    colours = plt.get_cmap("tab20")
    style = {
        key: {
            "color": "black" if key in own else colours(number % 20),
            "marker": {"muomni": "*", "planner": "P"}.get(key, "osD^v"[number % 5]),
            "markersize": 13 if key in own else 6,
        }
        for number, key in enumerate(engines)
    }
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for key, one in engines.items():
        points = one.get("sweep") or [one["single_in"]]
        axes.plot(
            [1 - point["recall"] + 1e-4 for point in points],
            [point["cpu"] for point in points],
            label=_name(key).strip("`"), linewidth=1, **style[key],
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel=f"recall@{K}, in distribution", ylabel=CPU_LABEL)
    ticks = (0.5, 0.1, 0.01, 0.001, 1e-4)
    axes.set_xticks(ticks, ["0.5", "0.9", "0.99", "0.999", "1"])
    axes.invert_xaxis()
    axes.set_title(f"Single queries, {whole['size']:,} rows: below and right is better")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.savefig(f"{target}-recall.png", dpi=110)
    plt.close(figure)

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    with_filters = {key: one for key, one in engines.items() if len(one.get("filters", {})) > 1}
    names = list(next(iter(with_filters.values()), {"filters": {}})["filters"])
    for key, one in with_filters.items():
        found = one["filters"]
        places = [number for number, name in enumerate(names) if name in found]
        times = [found[names[place]]["cpu"] for place in places]
        axes.plot(places, times, label=_name(key).strip("`"), linewidth=1, **style[key])
        for place, time_ in zip(places, times, strict=True):
            if found[names[place]]["recall"] < 0.95:
                axes.annotate(
                    f"{found[names[place]]['recall']:.2f}", (place, time_), fontsize=7,
                    color="red", xytext=(3, 3), textcoords="offset points",
                )  # fmt: skip
    axes.set(yscale="log", ylabel=CPU_LABEL)
    axes.set_xticks(range(len(names)), [fill(name, 14) for name in names], fontsize=8)
    axes.set_title(f"Filters, {whole['size']:,} rows; in red: recall below .95")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.savefig(f"{target}-filters.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
