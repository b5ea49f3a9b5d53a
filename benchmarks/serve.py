"""The server beside the engine in one process: requests a second, how long they take, memory.

    python benchmarks/serve.py [--items 100000] [--seconds 5] [--requests 100000] [--alone]

A collection of so many vectors is made, with the model ``base-offline`` for words. Clients, each a
connection that asks again when it is answered, are threads of other processes. ``in process`` is
``Collection.query`` in as many threads. ``--alone`` has each query encoded by itself, to see what
encoding together is worth. At the end memory is read after so many requests.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WORDS = ("robin", "dawn", "ferry", "granite", "whistle", "harbour", "lantern", "seven", "night")
K = 10
PROCESSES = 2


def body_of(kind: str, number: int) -> bytes:
    rng = np.random.default_rng(number)
    if kind == "vector":
        part: dict[str, Any] = {"kind": "vector", "vector": rng.standard_normal(256).tolist()}
    else:
        part = {"kind": "text", "value": " ".join(rng.choice(WORDS, 4)) + f" {number}"}
    return json.dumps({"parts": [part], "k": K}).encode()


def ask_until(port: int, kind: str, clients: int, seconds: float, start: int, out: Any) -> None:
    """Ask with so many connections; put the seconds of each request into ``out``."""
    times: list[float] = []

    def client(number: int) -> None:
        bodies = [body_of(kind, start + 1_000 * number + one) for one in range(50)]
        wire = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        end = time.perf_counter() + seconds
        turn = 0
        while time.perf_counter() < end:
            begun = time.perf_counter()
            headers = {"Content-Type": "application/json"}
            wire.request("POST", "/v1/collections/c/search", bodies[turn % 50], headers)
            answer = wire.getresponse()
            told = answer.read()
            if answer.status != 200 or b'"hits"' not in told:
                raise RuntimeError(told.decode())
            times.append(time.perf_counter() - begun)
            turn += 1

    in_threads(client, clients)
    out.put(times)


def in_threads(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def over_http(port: int, kind: str, clients: int, seconds: float) -> list[float]:
    processes = min(clients, PROCESSES)
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    share = clients // processes
    workers = [
        context.Process(target=ask_until, args=(port, kind, share, seconds, 100_000 * number, out))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    times = [one for _ in workers for one in out.get()]
    for worker in workers:
        worker.join()
    return times


def in_process(directory: Path, kind: str, clients: int, seconds: float) -> list[float]:
    from muomni_search import Collection, Query

    times: list[float] = []
    with Collection.open(directory) as collection:

        def client(number: int) -> None:
            parts = [
                json.loads(body_of(kind, 1_000 * number + one))["parts"][0] for one in range(50)
            ]
            queries = [
                Query.vector(part["vector"]) if kind == "vector" else Query.text(part["value"])
                for part in parts
            ]
            collection.query(queries[0], K)
            end = time.perf_counter() + seconds
            turn = 0
            while time.perf_counter() < end:
                begun = time.perf_counter()
                collection.query(queries[turn % 50], K)
                times.append(time.perf_counter() - begun)
                turn += 1

        in_threads(client, clients)
    return times


def serve_in(directory: Path, alone: bool, port: Any) -> None:
    """Serve, in a process of its own."""
    from muomni_search.server import encoding
    from muomni_search.server.run import serve
    from muomni_search.server.settings import Settings

    if alone:
        encoding.Together.encode = lambda self, batch: self._encoder.encode(batch)  # type: ignore[method-assign]
    serve(
        Settings(collections={"c": directory}),
        port=0,
        ready=lambda url: port.put(int(url.rpartition(":")[2])),
    )


def memory_of(port: int) -> float:
    wire = http.client.HTTPConnection("127.0.0.1", port)
    wire.request("GET", "/v1/metrics")
    for line in wire.getresponse().read().decode().splitlines():
        if line.startswith("process_resident_memory_bytes"):
            return float(line.split()[1]) / 1e6
    raise RuntimeError("no memory in the metrics")


def make(directory: Path, items: int) -> None:
    from muomni_search import Collection, Modality, Record
    from muomni_search.vectors import normalise

    rng = np.random.default_rng(0)
    rows = normalise(rng.standard_normal((items, 256)) * (np.arange(256) + 1.0) ** -0.5)
    with Collection.create(directory, model="base-offline") as collection:
        collection.add(
            Record(f"item{number:07}", Modality.TEXT, "made", vector=row, text=f"text {number}")
            for number, row in enumerate(rows)
        )


def tell(name: str, kind: str, clients: int, times: list[float], seconds: float) -> None:
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    rate = len(times) / seconds
    print(f"{name:<11} {kind:<7} {clients:>7} {rate:>11,.0f} {p50:>9.2f} {p99:>9.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--requests", type=int, default=0, help="ask so many, then read memory")
    parser.add_argument("--alone", action="store_true", help="encode each query by itself")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder, "c")
        make(directory, options.items)
        context = multiprocessing.get_context("spawn")
        ports = context.Queue()
        server = context.Process(target=serve_in, args=(directory, options.alone, ports))
        server.start()
        try:
            measure(ports.get(timeout=120), directory, options)
        finally:
            server.terminate()
            server.join()


def measure(port: int, directory: Path, options: argparse.Namespace) -> None:
    print(f"{options.items:,} items, k = {K}, {sys.version.split()[0]}")
    print(
        f"{'':<11} {'query':<7} {'clients':>7} {'requests/s':>11} {'p50 (ms)':>9} {'p99 (ms)':>9}"
    )
    for kind in ("vector", "text"):
        over_http(port, kind, 1, 0.5)
        for clients in options.clients:
            for name, ask in (
                ("in process", lambda *rest: in_process(directory, *rest)),
                ("server", lambda *rest: over_http(port, *rest)),
            ):
                times = ask(kind, clients, options.seconds)
                tell(name, kind, clients, times, options.seconds)
    if options.requests:
        told = 0
        print(f"{'requests':>11} {'memory (MB)':>12}\n{told:>11,} {memory_of(port):>12.0f}")
        while told < options.requests:
            told += len(over_http(port, "text" if told % 2 else "vector", 8, 20.0))
            print(f"{told:>11,} {memory_of(port):>12.0f}", flush=True)


if __name__ == "__main__":
    main()
