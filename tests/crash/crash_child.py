"""The commands of the crash tests, and the process that lets children die in the midst of them.

Run as a program it answers requests, a JSON object a line: each is a fork of a process that has
everything imported and has used no thread yet, for a fork of one that searched hangs in FAISS.
The child dies at its n-th *instant*: before anything that changes a file or a folder, with a write
half done, and before and after each commit.
"""

from __future__ import annotations

import builtins
import gc
import io
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import numpy as np
import numpy.fft
import numpy.ma
import pyarrow.dataset
import pyarrow.parquet
import soundfile
from PIL import Image
from sqlalchemy import Engine, event

sys.path.insert(0, str(Path(__file__).parent.parent))

from damage import examine, mend, save
from workload import carry_out

from muomni_search import batch, durable, pipeline, reembed, transfer
from muomni_search.collection import Collection
from muomni_search.errors import MuomniError, NotFound
from muomni_search.index import faiss_index, planner, tuning
from muomni_search.ingest.manifest import read_corpus
from muomni_search.items import DIM, Modality, Record
from muomni_search.store import engine
from muomni_search.vectors import normalise

# Imported above, so that not every child needs to: what the commands load where they use it.
_ = (alembic, numpy.ma, numpy.fft, pyarrow.dataset, pyarrow.parquet, faiss_index)

__all__ = ["COMMIT_ITEMS", "DIED", "OPERATIONS", "VECTORS", "prepare", "share_statements"]

VECTORS = normalise(np.random.default_rng(4).standard_normal((60, DIM)))
DIED = 99
COMMIT_ITEMS = 6
# What is deleted and purged.
DOOMED = "key in ('a.txt', 'c.wav', 'v1') or n > 5"
TEXT, IMAGE, AUDIO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO

# ---- what is done --------------------------------------------------------------------------------
# All of it happens in a folder that holds `collection`, `files` and what else a command makes.


def prepare(place: Path) -> None:
    """Make a collection with all modalities, several segments, an old index and dead rows."""
    make_corpus(place)
    with Collection.create(place / "collection", model="hashing") as collection:
        collection.add(read_corpus([place / "files"]))
        collection.rebuild("text", kind="ann")
        collection.add(vectors(range(10), 0))
        collection.delete(["v9"])


def make_corpus(place: Path) -> None:
    files = place / "files"
    files.mkdir(parents=True)
    (files / "a.txt").write_text("An owl calls in the night.")
    (files / "long.txt").write_text(" ".join(f"Sentence {n} tells of {n}." for n in range(12)))
    (files / "moves.txt").write_text("Waves roll over the sand.")
    (files / "goes.txt").write_text("It will be gone.")
    Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(files / "b.png")
    soundfile.write(files / "c.wav", np.sin(np.arange(3 * 16_000) / 50), 16_000)


def vectors(numbers: range, first: int) -> list[Record]:
    modalities = list(Modality)
    return [
        Record(
            f"v{number}",
            modalities[number % 3],
            "test",
            vector=VECTORS[first + number],
            metadata={"n": number},
        )
        for number in numbers
    ]


def opened(place: Path) -> Collection:
    return Collection.open(place / "collection")


def create(place: Path) -> None:
    try:
        opened(place).close()
    except NotFound:
        Collection.create(place / "collection", model="hashing").close()


def add(place: Path) -> None:
    with opened(place) as collection:
        collection.add(vectors(range(20, 30), 0))


def add_files(place: Path) -> None:
    new = place / "new"
    new.mkdir(exist_ok=True)
    for number in range(5):
        (new / f"{number}.txt").write_text(f"The new text number {number}.")
    (new / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with opened(place) as collection:
        collection.add(read_corpus([new]))


def replace(place: Path) -> None:
    files = place / "files"
    (files / "long.txt").write_text(" ".join(f"Other {n} speaks of {n}." for n in range(12)))
    (files / "moves.txt").unlink(missing_ok=True)
    (files / "moved.txt").write_text("Waves roll over the sand.")
    with opened(place) as collection:
        collection.add([*read_corpus([files]), *vectors(range(6), 30)])


def delete(place: Path) -> None:
    with opened(place) as collection:
        collection.delete([item.key for item in collection.items(where=DOOMED)])


def compact(place: Path) -> None:
    with opened(place) as collection:
        collection.compact()


def purge(place: Path) -> None:
    with opened(place) as collection:
        collection.purge(where=DOOMED)


def prune(place: Path) -> None:
    files = place / "files"
    (files / "goes.txt").unlink(missing_ok=True)
    (files / "b.png").unlink(missing_ok=True)
    (files / "comes.txt").write_text("It has just come.")
    with opened(place) as collection:
        collection.add(read_corpus([files]), prune_roots=[files])


def rebuild(place: Path) -> None:
    with opened(place) as collection:
        collection.rebuild(kind="ann")


def upgrade(place: Path) -> None:
    opened(place).close()


def repair(place: Path) -> None:
    with opened(place) as collection:
        collection.repair()


def export(place: Path) -> None:
    with opened(place) as collection:
        transfer.export_collection(collection, place / "all.parquet")


def backup(place: Path) -> None:
    copy = place / "copy"
    if copy.exists():  # it died after the copy was whole
        with Collection.open(copy) as copied:
            assert not list(copied.verify())
        return
    with opened(place) as collection:
        collection.backup(copy)


def import_(place: Path) -> None:
    with opened(place) as collection:
        transfer.import_collection(collection, place / "other.parquet")


def batch_job(place: Path) -> None:
    with opened(place) as collection:
        batch.run_batch(collection, place / "queries.jsonl", place / "answers.jsonl", k=4)


def neighbors(place: Path) -> None:
    with opened(place) as collection:
        batch.write_neighbors(collection, place / "graph.parquet", k=3)


def reembed_mapped(place: Path) -> None:
    with opened(place) as collection:
        reembed.reembed_collection(collection, place / "model")


def reembed_anew(place: Path) -> None:
    # The ready vectors cannot come along.
    with opened(place) as collection:
        reembed.reembed_collection(collection, "hashing", drop_missing=True)


OPERATIONS: dict[str, Callable[[Path], None]] = {
    "prepare": prepare,
    "create": create,
    "add": add,
    "add files": add_files,
    "replace": replace,
    "delete": delete,
    "compact": compact,
    "purge": purge,
    "prune": prune,
    "rebuild": rebuild,
    "upgrade": upgrade,
    "repair": repair,
    "backup": backup,
    "export": export,
    "import": import_,
    "batch": batch_job,
    "neighbors": neighbors,
    "reembed mapped": reembed_mapped,
    "reembed anew": reembed_anew,
}

# What is done to a damaged collection, and told of.
LOOKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "examine": examine,
    "mend": mend,
    "save": save,
}

# ---- dying, and failing --------------------------------------------------------------------------

ACTS = ("fsync", "ftruncate", "mkdir", "rename", "replace", "rmdir", "unlink")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Fate:
    """Counts the instants and the commits of a child, and ends it or lets it fail at one of them.

    Args:
        tell: Hands a line to whoever started the child.
        die_at: The number of the instant, from 1; 0 for none.
        fail_at: The number of the instant at which the system refuses what was to be done.
        errors: With which errors, one after another; the last one is that of all instants since.
            0 stands for none.
    """

    def __init__(
        self,
        tell: Callable[[dict[str, Any]], None],
        *,
        die_at: int = 0,
        fail_at: int = 0,
        errors: Sequence[int] = (0,),
    ) -> None:
        self.tell = tell
        self.die_at = die_at
        self.fail_at = fail_at
        self.errors = errors
        self.instants = 0
        self.commits = 0
        for name in ACTS:
            setattr(os, name, self._announced(getattr(os, name)))
        self._pwrite = os.pwrite
        os.pwrite = self.pwrite  # type: ignore[assignment]
        os.open = self._opening(os.open)  # type: ignore[assignment]
        io.open = builtins.open = self._opening(io.open)  # type: ignore[assignment]
        durable.step = self.step

    def moment(self) -> None:
        """Count an instant at which the child may die, and nothing can fail."""
        self.instants += 1
        if self.instants == self.die_at:
            self.end(DIED)

    def instant(self, name: object = None) -> None:
        self.moment()
        if self.fail_at and self.instants >= self.fail_at:
            number = self.errors[min(self.instants - self.fail_at, len(self.errors) - 1)]
            if number:
                named = (str(name),) if isinstance(name, str | Path) else ()
                raise OSError(number, os.strerror(number), *named)

    def end(self, code: int, error: str = "") -> None:
        self.tell({"instants": self.instants, "commits": self.commits, "error": error})
        os._exit(code)

    def _announced(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def announced(*args: Any, **options: Any) -> Any:
            self.instant(args[0])
            return act(*args, **options)

        return announced

    def _opening(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def opening(name: Any, mode: Any = "r", *args: Any, **options: Any) -> Any:
            if mode & WRITING if isinstance(mode, int) else set(mode) & set("wax+"):
                self.instant(name)
            return act(name, mode, *args, **options)

        return opening

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        # Half of it at first: what calls this goes on with the rest.
        self.instant()
        written = self._pwrite(descriptor, data[: max(len(data) // 2, 1)], offset)
        self.instant()
        return written

    def watch_statements(self) -> None:
        """Let the child die before any statement too: of the migrations that make a schema."""
        event.listen(Engine, "before_cursor_execute", lambda *_: self.moment())

    def step(self, name: str) -> None:
        # Those before and after an act are instants already.
        if name == "after commit":
            self.commits += 1
        if "commit" in name:
            self.instant()


def shrink() -> None:
    """Let every command take several commits, blocks and row groups, and build indexes."""
    pipeline.COMMIT_ITEMS = COMMIT_ITEMS
    pipeline.BATCH_PIECES = 4
    transfer.COMMIT_ROWS = transfer.GROUP_ROWS = transfer.PAGE_ITEMS = 6
    batch.BLOCK_QUERIES = 8
    planner.EXACT_ROWS = 8
    tuning.DEPTHS = (4,)
    planner.DEAD_ROWS = 4
    reembed.FEW_ITEMS = 2
    reembed.PAGE_KEYS = reembed.MANY_KEYS = 4


def limit_files(size: int) -> None:
    """Let no file grow beyond a size: a full disk for those who may not mount one."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def limit_memory(size: int) -> None:
    """Let the process ask for no more than so many bytes beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + size
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def live(request: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
    """Do what a request asks for; never return."""
    fate = Fate(
        tell,
        die_at=request.get("die_at", 0),
        fail_at=request.get("fail_at", 0),
        errors=request.get("errors", [0]),
    )
    if "file_bytes" in request:
        limit_files(request["file_bytes"])
    if "memory_bytes" in request:
        limit_memory(request["memory_bytes"])
    if "seconds" in request:
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    if request.get("statements") or request["operation"] in ("create", "upgrade"):
        fate.watch_statements()
    place = Path(request["place"])
    try:
        if request["operation"] == "orders":
            for number, order in enumerate(request["orders"]):
                carry_out(place, order)
                tell({"acknowledged": number + 1})
        elif request["operation"] in LOOKS:
            tell({"examined": LOOKS[request["operation"]](place)})
        else:
            OPERATIONS[request["operation"]](place)
    except MuomniError as error:
        fate.end(1, str(error))
    except BaseException:  # noqa: BLE001  a fork must not run into its parent's loop
        fate.end(2, traceback.format_exc())
    fate.end(0)


def share_statements() -> None:
    """Let every engine know what another has compiled: most of the time went into that."""
    compiled: dict[Any, Any] = {}
    make = engine.create_engine
    engine.create_engine = lambda *given, **named: make(  # type: ignore[assignment]
        *given, **named, execution_options={"compiled_cache": compiled}
    )


def warm_up() -> None:
    """Do everything once that starts no threads of FAISS, so that no child does it anew."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_corpus(place)
        with Collection.create(place / "collection", model="hashing") as collection:
            collection.add(read_corpus([place / "files"]))
            collection.add(vectors(range(3), 0))
            collection.delete(["v2"])
            collection.verify()


def tell(pipe: int, told: dict[str, Any]) -> None:
    os.write(pipe, json.dumps(told).encode() + b"\n")


def serve() -> None:
    """Fork a child for each request on stdin; answer with how it ended, and what it told."""
    Image.init()
    share_statements()
    warm_up()
    shrink()
    gc.freeze()  # a collection would copy the memory that a fork shares
    for line in sys.stdin:
        request = json.loads(line)
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            live(request, partial(tell, write))
        os.close(write)
        if "kill_after" in request:
            time.sleep(request["kill_after"])
            os.kill(pid, signal.SIGKILL)
        with os.fdopen(read) as pipe:
            told = [json.loads(line) for line in pipe]
        _, status = os.waitpid(pid, 0)
        answer = {"code": os.waitstatus_to_exitcode(status)}
        for one in told:
            answer.update(one)
        with suppress(BrokenPipeError):  # who asked was stopped
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
