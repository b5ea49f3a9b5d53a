"""The store: a collection's directory, and the transactions on it.

SQLite and the row files together are the truth. Reading is ``snapshot.py``, writing ``writer.py``;
checking and mending are ``check.py``.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from sqlite3 import Connection
from sqlite3 import Error as SQLiteError
from typing import TYPE_CHECKING

from muomni_search import durable
from muomni_search.closing import Closing
from muomni_search.errors import Conflict, CorruptData, NotFound
from muomni_search.items import Item
from muomni_search.store.files import sweep
from muomni_search.store.records import (
    Failure,
    Fault,
    IndexFile,
    Job,
    Known,
    Match,
    NewItem,
    RowFile,
    Settings,
    now,
)
from muomni_search.store.snapshot import INDEX, STAGE, VECTORS, Snapshot, State, read_state
from muomni_search.store.sqlite import (
    DATABASE,
    LOCK_SECONDS,
    check_schema,
    database_errors,
    disk_errors,
    open_database,
)

# SQLAlchemy, and what needs it, is imported by who writes (see sqlite.py).
if TYPE_CHECKING:
    from sqlalchemy import Engine

    from muomni_search.store.writer import Writer

__all__ = [
    "INDEX",
    "STAGE",
    "VECTORS",
    "Failure",
    "Fault",
    "IndexFile",
    "Job",
    "Known",
    "Match",
    "NewItem",
    "RowFile",
    "Settings",
    "Snapshot",
    "Store",
]

# What a database is called until it is whole.
UNBORN = f"{DATABASE}.new"


# How often a check is made that a writer disturbed.
CHECKS = 3
# How long the log's emptying waits for readers: most of them are done in milliseconds.
READER_SECONDS = 2.0
# How many connections are kept for readers.
IDLE = 8


class Store(Closing):
    """A collection's ``directory``: its ``database`` (``collection.db``), ``vectors/``, ``index/``.

    Made by ``create`` or ``open``; usable from several threads, each with a snapshot of its own.
    """

    def __init__(self, directory: Path, *, salvage: bool = False) -> None:
        self.directory = directory
        self._salvage = salvage
        self.database = directory / DATABASE
        self._lock = threading.Lock()
        self._newest: State | None = None
        # Connections that nobody reads from now.
        self._idle: list[Connection] = []
        self._engine: Engine | None = None  # from the first write on
        # What the database is known again by, once it is open: its file, and its birth, for another
        # one may get the same number.
        self._place: tuple[int, int] | None = None
        self._created: str | None = None
        self._is_closed = False

    # ---- life ----------------------------------------------------------------------------

    @classmethod
    def create(cls, directory: Path, *, model: str, fingerprint: str) -> Store:
        """Make an empty store; it is one from the instant at which its database has its name.

        Args:
            directory: Where; made when it is not there.
            model: The name or path of the model that its vectors will come from.
            fingerprint: That model's fingerprint.

        Raises:
            Conflict: There is something in the directory already.
        """
        directory = Path(directory).absolute()
        with disk_errors(directory), database_errors(directory / DATABASE):
            is_new = not directory.exists()
            if not is_new and not directory.is_dir():
                raise Conflict(f"{directory} is a file", hint="name another place")
            directory.mkdir(parents=True, exist_ok=True)
            with _locked(directory):
                _check_empty(directory)
                try:
                    _make(directory, model, fingerprint)
                except BaseException:
                    _unmake(directory, is_new=is_new)
                    raise
            durable.fsync_directory(directory.parent)
        return cls.open(directory)

    @classmethod
    def open(cls, directory: Path, *, salvage: bool = False) -> Store:
        """Open a store; bring an older one up to date.

        Args:
            directory: Where it is.
            salvage: Open one too that is too damaged to be brought up to date, or whose end is cut
                off, for ``salvage``.

        Raises:
            NotFound: There is none.
            CorruptData: It is damaged, foreign or of a newer version.
        """
        directory = Path(directory).absolute()
        path = directory / DATABASE
        with disk_errors(path), database_errors(path):
            if not path.exists():
                raise NotFound(
                    f"no collection at {directory}",
                    hint="`muomni add PATH` makes one, -c names another",
                )
            if not path.is_file():
                raise CorruptData(f"{path} is no file", hint="name a collection's directory")
            store = cls(directory, salvage=salvage)
            try:
                # The first reader's; were it closed now, SQLite would fold a log into the database
                # that may be damaged.
                store._idle.append(open_database(path, salvage=salvage))
                store._place = durable.place_of(path)
                if not check_schema(store._idle[0], path):
                    _upgrade(path, salvage=salvage)
                with store.snapshot():
                    return store
            except BaseException:
                store.close()
                raise

    def close(self) -> None:
        """Close the connections; memory maps live as long as somebody holds them."""
        self._newest = None
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            engine, self._engine = self._engine, None
        for connection in idle:
            connection.close()
        if engine is not None:
            engine.dispose()

    # ---- transactions --------------------------------------------------------------------

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Give one consistent state to read from, in one thread.

        Raises:
            NotFound: The collection was dropped, or another one took its place.
            Conflict: The store was closed.
        """
        self._check_place()
        with database_errors(self.database):
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                connection = open_database(self.database, salvage=self._salvage)
            try:
                snapshot = Snapshot(connection, self._begin_reading(connection))
                try:
                    yield snapshot
                finally:
                    snapshot.end()
            finally:
                self._give_back(connection)

    def _give_back(self, connection: Connection) -> None:
        """Keep a connection for who reads next."""
        is_kept = False
        # However it ended: the last connection that closes folds the log into the database.
        with suppress(SQLiteError):
            connection.rollback()
            with self._lock:
                is_kept = not self._is_closed and len(self._idle) < IDLE
                if is_kept:
                    self._idle.append(connection)
        if not is_kept:
            connection.close()

    def _begin_reading(self, connection: Connection) -> State:
        """Begin a transaction; return what it sees, with its row files mapped into memory.

        Mapped now, because a writer may replace and unlink a file later. It may also do so between
        the reading of the file's number and its mapping; a second look finds the new one.
        """
        seen = None
        while True:
            newest = self._newest
            connection.execute("BEGIN")
            state = read_state(connection, self.directory, newest)
            if state is newest:
                return state
            self._check_birth(state)
            state.map_rows(newest)
            if state.is_mapped or state.revision == seen:
                with self._lock:
                    if self._newest is None or self._newest.revision < state.revision:
                        self._newest = state
                return state
            seen = state.revision
            connection.rollback()

    @contextmanager
    def write(
        self, timeout: float = LOCK_SECONDS, *, fingerprint: str | None = None
    ) -> Iterator[Writer]:
        """Give the only writer; what it did counts when the block ends, wholly or not at all.

        Args:
            timeout: Seconds to wait for another writer.
            fingerprint: That of the model which the vectors to write came from.

        Raises:
            Conflict: Another writer held the lock for longer, or the collection has moved to
                another model since the vectors were made; or the store was closed.
            NotFound: The collection was dropped, or another one took its place.
        """
        from muomni_search.store.engine import begin_writing
        from muomni_search.store.writer import Writer

        self._check_place()
        with database_errors(self.database):
            with begin_writing(self._writing_engine(), timeout) as connection:
                # Again, for who drops a collection holds the lock, and the rows are found by name.
                self._check_place()
                writer = Writer(connection, self.directory)
                self._check_birth(writer.state)
                if fingerprint not in (None, writer.fingerprint):
                    raise Conflict(
                        f"{self.directory} has moved to the model {writer.model!r} meanwhile",
                        hint="the same command again encodes with it",
                    )
                sweep(self.directory, writer.state)
                try:
                    yield writer
                    writer.finish()
                except BaseException:
                    writer.undo()
                    raise
                finally:
                    writer.end()
            writer.clean_up()

    def _check_place(self) -> None:
        """Check that the database that was opened is still the one in its place.

        SQLite would go on in a file that has no name any more, beside the rows of another one.

        Raises:
            NotFound: It is gone, or another one.
            Conflict: The store was closed.
        """
        if self._is_closed:
            raise Conflict(f"{self.directory} was closed", hint="open it again")
        if durable.place_of(self.database) != self._place:
            raise self._gone()

    def _check_birth(self, state: State) -> None:
        if self._created is None:
            self._created = state.created
        if state.created != self._created:
            raise self._gone()

    def _gone(self) -> NotFound:
        return NotFound(
            f"{self.directory} is gone: it was dropped or replaced since it was opened",
            hint="open what is there now",
        )

    def _writing_engine(self) -> Engine:
        from muomni_search.store.engine import connect

        with self._lock:
            if self._engine is None:
                self._engine = connect(self.database)
            return self._engine

    def vacuum(self) -> list[Path]:
        """Write the database anew, without free pages and without what was deleted.

        Returns:
            The files that are not smaller yet and may still hold what was deleted, because another
            process or thread has read since before, or has written all the while; usually none.
        """
        self._check_place()
        held = [self.database, self.database.with_name(f"{DATABASE}-wal")]
        try:
            with (
                disk_errors(self.database),
                database_errors(self.database),
                # A connection of its own, for what is set here is nothing for others.
                closing(open_database(self.database)) as connection,
            ):
                # Or pages that are written anew may keep old bytes in their gaps.
                connection.execute("PRAGMA secure_delete=ON")
                durable.step("before commit of a database without gaps")
                connection.execute("VACUUM")
                connection.execute(f"PRAGMA busy_timeout={int(READER_SECONDS * 1000)}")
                durable.step("before commit of the log to the database")
                (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except Conflict:
            return held
        return held if is_busy else []

    # ---- checking and mending --------------------------------------------------------------

    def problems(self) -> Iterator[Fault]:
        """Yield what does not fit together: SQLite, row files, index files, each against each."""
        from muomni_search.store.check import check

        self._check_place()
        faults: list[Fault] = []
        with database_errors(self.database):
            for _ in range(CHECKS):
                with closing(open_database(self.database)) as connection:
                    connection.execute("BEGIN")
                    # Read anew, for who damages a database counts no revision up.
                    state = read_state(connection, self.directory)
                    faults = list(check(self.directory, Snapshot(connection, state)))
                if not faults:
                    break
                with closing(open_database(self.database)) as connection:
                    connection.execute("BEGIN")
                    after = read_state(connection, self.directory)
                # A file that somebody replaced meanwhile is no fault: look again.
                if after.revision == state.revision:
                    break
        yield from faults

    def repair(
        self,
        rescue: Callable[[Sequence[tuple[Item, Known]]], list[NewItem]] = lambda _: [],
    ) -> list[str]:
        """Mend what can be derived; return a line for each thing done.

        Args:
            rescue: Given the items whose vectors are damaged, returns those that it could encode
                again. The others are deleted and listed as failures.
        """
        from muomni_search.store.repair import repair

        with self.write() as writer:
            return repair(self.directory, writer, rescue)


# ---- making one, and bringing one up to date ---------------------------------------------------


def _upgrade(path: Path, *, salvage: bool) -> None:
    """Bring an older collection up to date, or leave it where it is to be salvaged and cannot."""
    from sqlalchemy.exc import DatabaseError

    from muomni_search.store.engine import connect, upgrade

    engine = connect(path)
    try:
        upgrade(engine)
    except (DatabaseError, SQLiteError):  # of statements that SQLAlchemy made, and of others
        if not salvage:
            raise
    finally:
        engine.dispose()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold off others who would make a collection here; the lock dies with the process."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check_empty(directory: Path) -> None:
    """Check that there is nothing here but what a maker that died may have left."""
    for entry in directory.iterdir():
        is_ours = entry.name in (VECTORS, INDEX) and entry.is_dir() and not any(entry.iterdir())
        if not is_ours and not entry.name.startswith(UNBORN):
            raise Conflict(
                f"{directory} exists already and is not empty", hint="name another, or clear it"
            )


def _make(directory: Path, model: str, fingerprint: str) -> None:
    from sqlalchemy import insert

    from muomni_search.store import tables
    from muomni_search.store.engine import begin_writing, connect, driver_connection, upgrade

    _remove_unborn(directory)
    for name in (VECTORS, INDEX):
        (directory / name).mkdir(exist_ok=True)
    durable.step("before the database is made")
    facts = {"id": 1, "model": model, "fingerprint": fingerprint, "created": now()}
    engine = connect(directory / UNBORN, create=True)
    try:
        upgrade(engine)
        with begin_writing(engine, LOCK_SECONDS) as connection:
            connection.execute(insert(tables.collection), {**facts, "version": 0, "revision": 0})
        with engine.connect() as connection:
            # Closing the last connection folds the log into the file too, but says nothing when
            # the disk is full.
            driver_connection(connection).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        engine.dispose()
    durable.replace(directory / UNBORN, directory / DATABASE)


def _unmake(directory: Path, *, is_new: bool) -> None:
    """Remove what a failed making has left, and nothing that was there before."""
    with suppress(OSError):
        _remove_unborn(directory)
    for path in (directory / VECTORS, directory / INDEX, *([directory] if is_new else [])):
        with suppress(OSError):
            path.rmdir()


def _remove_unborn(directory: Path) -> None:
    for path in directory.glob(f"{UNBORN}*"):
        path.unlink()
