"""A collection lives through thousands of deaths, kills, refusals and flipped bits.

    python tests/crash/marathon.py [--seed 1] [--deaths 3000] [--kills 300] [--faults 1000]
                                   [--flips 1000]

Random orders (`workload.py`) are carried out by children that end at each durable step, that are
killed at any instant, or to whom the system refuses a write. After each the parent holds the
collection against its own ledger: what was acknowledged is there, an order that was not is there
wholly or not at all, every item is found by its key and by its vector, exactly and by the index,
counts fit, ``verify`` finds nothing, and the same order again completes. Flips are in `damage.py`.

A process that ends leaves the page cache to the system, so this shows nothing of a power cut. What
must be on the disk before a commit is the order of the calls, which `test_store_crash.py` checks.
"""

from __future__ import annotations

import argparse
import errno
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import pyarrow.parquet as pq
from crash_child import COMMIT_ITEMS, DIED, share_statements
from crash_children import Children, Ended
from damage import Damage
from model_helpers import write_aligned_model
from workload import ALONE, ORDERS, Entry, Ledger, Order, plan

from muomni_search.collection import Collection
from muomni_search.durable import WHOLE
from muomni_search.index import planner
from muomni_search.items import Query
from muomni_search.vectors import mean_vector

__all__ = ["Life", "Run", "prepared"]

# Of how many items each check asks with the vectors.
ASKED = 8
# How often, after one disturbance, there is another one while the order is given again.
TWICE = 0.6
PROGRESS_SECONDS = 30.0


class Life:
    """A collection, what must be in it, and what it has survived.

    Args:
        folder: Where it lives.
        children: They do its work.
        seed: Of all that is random.
    """

    def __init__(self, folder: Path, children: Children, seed: int) -> None:
        self.place = folder.resolve() / "place"
        self._kept = folder.resolve() / "before"
        self._children = children
        self.random = Random(seed)
        self._ledger = Ledger()
        self._said = ""
        self.survived: Counter[tuple[str, str]] = Counter()
        self.begun: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        (self.place / "files").mkdir(parents=True)
        write_aligned_model(self.place / "model")
        Collection.create(self.place / "collection", model="hashing").close()
        for name in ("add rows", "add files and prune", "rebuild"):
            self.finish(*self._plan([name]))

    def count(self, kind: str) -> int:
        """Return how many disturbances of a kind it has survived."""
        return sum(number for (one, _), number in self.survived.items() if one == kind)

    def summarise(self) -> None:
        """Print what it survived, by kind and order."""
        kinds = sorted({kind for kind, _ in self.survived})
        print(f"\n{'order':24}" + "".join(f"{kind:>10}" for kind in kinds))
        for name in ORDERS:
            print(f"{name:24}" + "".join(f"{self.survived[kind, name]:10,}" for kind in kinds))
        print(f"{'all':24}" + "".join(f"{self.count(kind):10,}" for kind in kinds))
        print(f"\nitems found by their vectors: {dict(self.answers)}")

    # ---- planning and doing ------------------------------------------------------------------

    def _plan(self, names: Sequence[str]) -> tuple[list[Order], list[Ledger]]:
        """Return some orders, and what must be there before, between and after them."""
        orders: list[Order] = []
        ledgers = [self._ledger]
        for name in names:
            order, after = plan(self.random, ledgers[-1], self.place, name)
            orders.append(order)
            ledgers.append(after)
        return orders, ledgers

    def begin(self) -> tuple[list[Order], list[Ledger]]:
        """Return some random orders and their ledgers; keep the place as it is before them."""
        possible = [name for name in ORDERS if name != "import" or self._ledger.model == "hashing"]
        # What was tried least; of those, any. Tried and not survived: an order to which nothing
        # can be refused would be tried for ever.
        self.random.shuffle(possible)
        names = [min(possible, key=self.begun.__getitem__)]
        self.begun[names[0]] += 1
        if names[0] not in ALONE | {"reembed"} and self.random.random() < 0.3:
            names.append(self.random.choice([one for one in possible if one not in ALONE]))
        planned = self._plan(names)
        shutil.rmtree(self._kept, ignore_errors=True)
        shutil.copytree(self.place, self._kept)
        return planned

    def restore(self) -> None:
        """Make everything what it was before the orders."""
        shutil.rmtree(self.place)
        shutil.copytree(self._kept, self.place)

    def _run(self, orders: Sequence[Order], **disturbed: Any) -> Ended:
        return self._children.run(
            "orders",
            self.place,
            orders=list(orders),
            statements=orders[0]["do"] == "upgrade",
            **disturbed,
        )

    def finish(self, orders: Sequence[Order], ledgers: Sequence[Ledger]) -> Ended:
        """Carry orders out undisturbed."""
        ended = self._run(orders)
        self._note(orders, "undisturbed", ended)
        assert (ended.code, ended.acknowledged) == (0, len(orders)), ended.error
        self._ledger = ledgers[-1]
        self._check(ledgers[-1:])
        self._take_outputs(orders, ledgers)
        return ended

    def _note(self, orders: Sequence[Order], disturbed: object, ended: Ended) -> None:
        """Remember what was done last, for who must find out why it went wrong."""
        names = ", ".join(order["do"] for order in orders)
        self._said = f"{names}; {disturbed}; exit code {ended.code}; {ended.error}"

    def survive(
        self,
        kind: str,
        orders: Sequence[Order],
        ledgers: Sequence[Ledger],
        disturbances: Callable[[int], dict[str, Any]],
    ) -> None:
        """Give orders until they are carried out, disturbed at first.

        Args:
            kind: What to count it as.
            orders: What to do.
            ledgers: What must be there before, between and after them.
            disturbances: Returns what disturbs the n-th try; nothing in the end.
        """
        done = tries = 0
        while done < len(orders):
            disturbed = disturbances(tries)
            ended = self._run(orders[done:], **disturbed)
            self._note(orders[done:], disturbed, ended)
            done += ended.acknowledged
            tries += 1
            if ended.code == 0:
                break
            self._check_end(ended, disturbed)
            self.survived[kind, orders[min(done, len(orders) - 1)]["do"]] += 1
            self._check(ledgers[done : done + 2], orders[done : done + 1])
        assert done == len(orders)
        self._ledger = ledgers[-1]
        # It was asked for its items when it was in this state for the first time.
        self._check(ledgers[-1:], ask=False)
        self._take_outputs(orders, ledgers)

    def _check_end(self, ended: Ended, disturbed: dict[str, Any]) -> None:
        """Check that a child ended as it was told to, and that an error says what is to be done."""
        if "die_at" in disturbed:
            assert ended.code == DIED, ended.error
        elif "kill_after" in disturbed:
            assert ended.code == -signal.SIGKILL, ended.error
        else:
            assert ended.code == 1, ended.error
            assert "\n" not in ended.error, ended.error
            assert str(self.place) in ended.error, ended.error
            assert WHOLE in ended.error, ended.error

    # ---- checking ----------------------------------------------------------------------------

    def _check(
        self, allowed: Sequence[Ledger], orders: Sequence[Order] = (), *, ask: bool = True
    ) -> None:
        """Check that the collection is as one of the ledgers says, or between the two.

        Args:
            allowed: What may be there.
            orders: What was being done when it ended.
            ask: Whether to look for the items too.
        """
        order = orders[0] if orders else {}
        for ledger in allowed[:1] if order else ():
            self._check_output(order, ledger)
        with Collection.open(self.place / "collection") as collection:
            faults = collection.verify()
            if order.get("do") == "verify --repair" and faults:
                with collection.store.snapshot() as snapshot:
                    assert set(snapshot.iter_keys()) == allowed[0].items.keys()
                return  # it is still to be done
            assert faults == []
            found = read(collection)
            keys = set(found).union(*(ledger.items for ledger in allowed))
            fits = [
                {key for key in keys if is_as(found.get(key), ledger.items.get(key))}
                for ledger in allowed
            ]
            wrong = keys.difference(*fits) if len(fits) == 1 else keys - fits[0] - fits[1]
            for key in sorted(wrong):
                told = [str(found.get(key)), *(str(one.items.get(key)) for one in allowed)]
                raise AssertionError("\n".join([f"{key}, after {self._said}", *told]))
            if order and is_whole(order):
                assert keys in fits, "half of it is there"
            for old, new in order.get("moved", {}).items():
                if old in allowed[0].items:
                    assert (old in found) != (new in found), f"{old} or {new}"
            assert frozenset.intersection(*(ledger.lost for ledger in allowed)) <= {
                failure.key for failure in collection.failures()
            }
            if ask:
                self._check_answers(collection, found)

    def _check_answers(self, collection: Collection, found: dict[str, Entry]) -> None:
        """Check that every item is found by its key, and by its vectors, and nothing else is."""
        stats = collection.stats()
        assert stats["items"] == len(found)
        assert stats["segments"] == sum(len(entry.vectors) for entry in found.values())
        for item in collection.get(sorted(found), vectors=True):
            assert item.vector is not None
            mean = mean_vector(found[item.key].vectors)
            assert np.allclose(item.vector, mean, rtol=0, atol=1e-5)
        if not found:
            return
        keys = self.random.sample(sorted(found), min(ASKED, len(found)))
        queries = [Query.vector(found[key].vectors[-1]) for key in keys]
        every = collection.query_many(queries, len(found) + 1, exact=True)
        for key, hits in zip(keys, every, strict=True):
            assert {hit.key for hit in hits} == found.keys()
            own = next(hit for hit in hits if hit.key == key)
            assert own.cosine == max(hit.cosine for hit in hits) > 0.9999, key
            self.answers[own.how] += 1
        for key, (hit,) in zip(keys, collection.query_many(queries, 1), strict=True):
            # Another one where it is as good: two sounds may be the same.
            near = found[hit.key].vectors @ found[key].vectors[-1]
            assert min(hit.cosine, near.max()) > 0.9999, f"{key}: {hit.key}"
            self.answers[hit.how] += 1

    def _check_output(self, order: Order, ledger: Ledger) -> bool:
        """Check that what an order writes beside the collection is whole if it is there."""
        path = self.place / str(order.get("to"))
        if path.is_dir() and any(path.iterdir()):
            with Collection.open(path) as collection:
                assert collection.verify() == []
                found = read(collection)
            assert found.keys() == ledger.items.keys()
            assert all(is_as(entry, ledger.items[key]) for key, entry in found.items())
        elif path.with_suffix(".parquet").exists():
            keys = pq.read_table(path.with_suffix(".parquet"), columns=["key"])["key"].to_pylist()
            assert set(keys) == ledger.items.keys()
        else:
            return False
        return True

    def _take_outputs(self, orders: Sequence[Order], ledgers: Sequence[Ledger]) -> None:
        """Check what orders wrote beside the collection, and take it away."""
        for order, ledger in zip(orders, ledgers[1:], strict=True):
            assert self._check_output(order, ledger) == ("to" in order)
        for path in [*self.place.glob("out-*"), *self.place.glob(".out-*")]:
            path.unlink() if path.is_file() else shutil.rmtree(path)


def is_whole(order: Order) -> bool:
    """Whether an order is one commit."""
    few = len(order.get("rows", range(COMMIT_ITEMS))) < COMMIT_ITEMS
    return ORDERS[order["do"]].is_whole or few


def is_as(found: Entry | None, expected: Entry | None) -> bool:
    if found is None or expected is None:
        return found is expected
    return found.is_like(expected)


def read(collection: Collection) -> dict[str, Entry]:
    """Return the items as the store has them."""
    found = {}
    with collection.store.snapshot() as snapshot:
        rows = snapshot.item_rows(list(snapshot.iter_keys()))
        for item in snapshot.iter_items():
            modality, own = rows[item.key]
            assert modality == item.modality
            spans = [match.span for match in snapshot.matches(modality, own)]
            vectors = np.array(snapshot.vectors(modality)[own])
            found[item.key] = Entry(
                str(modality), item.text, item.source, item.metadata, spans, vectors
            )
    return found


# ---- the disturbances ----------------------------------------------------------------------------

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT)


def die(life: Life) -> Iterator[None]:
    """End a child at the first, second, … durable step of random orders."""
    while True:
        orders, ledgers = life.begin()
        steps = life.finish(orders, ledgers).instants
        for step in range(1, steps + 1):
            life.restore()

            def disturbed(tries: int, step: int = step) -> dict[str, Any]:
                if tries == 0:
                    return {"die_at": step}
                again = life.random.random() < TWICE
                return {"die_at": life.random.randint(1, step)} if again else {}

            life.survive("deaths", orders, ledgers, disturbed)
            yield


def kill(life: Life) -> Iterator[None]:
    """Kill a child at any instant of random orders."""
    while True:
        orders, ledgers = life.begin()
        started = time.monotonic()
        life.finish(orders, ledgers)
        seconds = time.monotonic() - started
        for _ in range(5):
            life.restore()

            def disturbed(tries: int, seconds: float = seconds) -> dict[str, Any]:
                # It was killed once; then it may be again, or come to its end.
                again = life.random.random() < 1 - tries / 4
                return {"kill_after": life.random.uniform(0, seconds)} if again else {}

            life.survive("kills", orders, ledgers, disturbed)
            yield


def refuse(life: Life) -> Iterator[None]:
    """Let the system refuse what a child asks of it, once or from then on."""
    while True:
        orders, ledgers = life.begin()
        steps = life.finish(orders, ledgers).instants
        for step in life.random.sample(range(1, steps + 1), min(steps, 12)):
            life.restore()
            errors = [life.random.choice(ERRORS), 0][: life.random.randint(1, 2)]
            life.survive(
                "faults",
                orders,
                ledgers,
                lambda tries, step=step, errors=errors: (
                    {} if tries else {"fail_at": step, "errors": errors}
                ),
            )
            yield


@contextmanager
def index_is_asked() -> Iterator[None]:
    """Let queries go to an index however few rows there are; the children tune it for four."""
    share, planner.RUNAWAY_SHARE = planner.RUNAWAY_SHARE, 2.0
    try:
        yield
    finally:
        planner.RUNAWAY_SHARE = share


class Run:
    """Everything that a collection is to live through.

    Args:
        folder: Where.
        children: They do the work.
        seed: Of all that is random.
    """

    def __init__(self, folder: Path, children: Children, seed: int) -> None:
        self.life = Life(folder, children, seed)
        self.damage = Damage(folder / "damage", children, seed)

    def go(self, counts: dict[str, int], say: Callable[[str], None]) -> None:
        """Let it happen, each kind so many times."""
        for name, disturb in {"deaths": die, "kills": kill, "faults": refuse}.items():
            said = time.monotonic()
            for _ in disturb(self.life) if counts[name] else ():
                if self.life.count(name) >= counts[name]:
                    break
                if time.monotonic() - said > PROGRESS_SECONDS:
                    said = time.monotonic()
                    say(f"{self.life.count(name):,} {name} survived")
        for number in range(1, counts["flips"] + 1):
            self.damage.strike()
            if number % 100 == 0:
                say(f"{number:,} damages seen through")

    def summarise(self) -> None:
        """Print what it came through."""
        self.life.summarise()
        self.damage.summarise()


@contextmanager
def prepared(folder: Path, seed: int) -> Iterator[Run]:
    """Give what is to be run."""
    share_statements()
    with Children.started() as children, index_is_asked():
        yield Run(folder, children, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description="crash and corruption, at length")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deaths", type=int, default=3_000)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--faults", type=int, default=1_000)
    parser.add_argument("--flips", type=int, default=1_000)
    options = parser.parse_args()
    counts = {name: getattr(options, name) for name in ("deaths", "kills", "faults", "flips")}
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    started = time.monotonic()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, prepared(Path(folder), options.seed) as run:
        try:
            run.go(counts, lambda line: print(line, flush=True))
        except KeyboardInterrupt:
            print("stopped")
        run.summarise()
    print(f"\n{time.monotonic() - started:,.0f} seconds")


if __name__ == "__main__":
    main()
