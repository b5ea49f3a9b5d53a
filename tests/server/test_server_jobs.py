"""Jobs: batches and maps in the background, watched, cancelled, and forgotten in time."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from server_helpers import C, Running, events, problem, running, wait_until

from muomni_search import NotFound, run_batch
from muomni_search.collection import Collection
from muomni_search.server.jobs import Job, Jobs
from muomni_search.server.settings import Settings


def batch(http: httpx.Client, *rows: object, name: str = "q.jsonl", **options: object) -> str:
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    answer = http.post(f"{C}/batch", files={"queries": (name, body)}, data=options)
    assert answer.status_code == 202, answer.text
    job = answer.json()["job"]
    assert answer.headers["location"] == f"/v1/jobs/{job}"
    return job


def watch(http: httpx.Client, job: str) -> list[tuple[str, dict]]:
    answer = http.get(f"/v1/jobs/{job}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [(name, json.loads(data)) for name, data in events(answer.text)]


def test_a_batch_answers_as_the_command_does(
    http: httpx.Client, root: Path, tmp_path: Path
) -> None:
    rows = [{"text": "a dog"}, {"id": "red.png", "k": 1}, {"plus": ["text:sea", "2*id:low.wav"]}]
    job = batch(http, *rows, k=2, modality=["text", "audio"])
    name, last = watch(http, job)[-1]
    assert (name, last["state"], last["done"], last["total"]) == ("done", "done", 3, 3)
    assert last["summary"] == {"answered": 3, "failed": 0, "errors": [], "lacking_fields": {}}
    queries = tmp_path / "q.jsonl"
    queries.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Collection.open(root / "small") as small:
        run_batch(small, queries, tmp_path / "a.jsonl", k=2, modality=["text", "audio"])
    answer = http.get(f"/v1/jobs/{job}/result")
    assert answer.text == (tmp_path / "a.jsonl").read_text()
    assert "attachment" in answer.headers["content-disposition"]


def test_a_batch_keeps_no_books_in_the_collection(http: httpx.Client, root: Path) -> None:
    with Collection.open(root / "small") as small:
        before = small.store.database.stat().st_size
        watch(http, batch(http, {"text": "a dog"}))
        with small.view() as view:
            rows = view.snapshot.connection.execute("SELECT output FROM jobs").fetchall()
        assert not [one for (one,) in rows if "muomni-serve" in one]
        assert small.store.database.stat().st_size == before


def test_a_query_of_a_batch_names_no_file_and_wants_no_end_of_hits(
    http: httpx.Client, corpus: Path
) -> None:
    secret = str(corpus / "red.png")
    job = batch(
        http,
        {"image": secret},
        {"audio": "/etc/passwd"},
        {"plus": [f"image:{secret}"]},
        {"text": "dog", "minus": ["audio:x.wav"]},
        {"text": "dog", "where": "source contains '/'"},
        {"text": "dog", "k": 10_001},
        {"text": "dog", "k": 10_000},
    )
    summary = watch(http, job)[-1][1]["summary"]
    assert (summary["answered"], summary["failed"]) == (1, 6)
    assert [one["query_id"] for one in summary["errors"]] == [0, 1, 2, 3, 4, 5]
    assert str(corpus) not in json.dumps(summary)


def test_a_batch_says_which_field_of_its_filter_no_item_has(http: httpx.Client) -> None:
    job = batch(http, {"text": "a dog"}, where="yaer > 1990")
    summary = watch(http, job)[-1][1]["summary"]
    assert (summary["answered"], [*summary["lacking_fields"]]) == (1, ["yaer"])


@pytest.mark.parametrize("output", ["parquet", "trec"])
def test_other_formats_of_answers(http: httpx.Client, output: str) -> None:
    job = batch(http, {"text": "a dog"}, format=output, exact="false")
    assert watch(http, job)[-1][0] == "done"
    assert http.get(f"/v1/jobs/{job}/result").content


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("q.parquet", {}),
        ("q", {}),
        ("../../q.exe", {}),
        ("q.jsonl", {"k": "0"}),
        ("q.jsonl", {"k": "99999999999999"}),
        ("q.jsonl", {"k": "ten"}),
        ("q.jsonl", {"format": "exe"}),
        ("q.jsonl", {"where": "year >="}),
        ("q.jsonl", {"where": "source = 'x'"}),
        ("q.jsonl", {"modality": "smell"}),
        ("q.jsonl", {"output": "/etc/x"}),
        ("q.jsonl", {"exact": "perhaps"}),
    ],
)
def test_a_bad_batch_is_refused_at_once(http: httpx.Client, name: str, options: dict) -> None:
    files = {"queries": (name, b'{"text": "x"}\n')}
    problem(http.post(f"{C}/batch", files=files, data=options), 422, "invalid-input")


def test_a_file_that_is_no_file_of_queries_fails_its_job(http: httpx.Client) -> None:
    for name, content in (("q.npy", b"\x93NUMPY rubbish"), ("q.csv", b"\xff\xfe")):
        answer = http.post(f"{C}/batch", files={"queries": (name, content)})
        name, last = watch(http, answer.json()["job"])[-1]
        assert name == "failed"
        assert last["error"]
        assert "/tmp" not in last["error"]
        problem(http.get(f"/v1/jobs/{last['id']}/result"), 409, "conflict")


def test_a_map_is_made_once_for_a_state(http: httpx.Client) -> None:
    answer = http.get(f"{C}/map")
    assert answer.status_code == 202
    job = answer.json()["job"]
    assert watch(http, job)[-1][0] == "done"
    drawn = http.get(f"{C}/map")
    assert drawn.status_code == 200
    points = drawn.json()["points"]
    assert [point["key"] for point in points] == sorted(point["key"] for point in points)
    assert all(abs(point["x"]) <= 1 and abs(point["y"]) <= 1 for point in points)
    assert http.get(f"/v1/jobs/{job}/result").json() == drawn.json()


def test_a_map_of_nothing_is_refused(http: httpx.Client) -> None:
    problem(http.get("/v1/collections/empty/map"), 422, "invalid-input")


def test_a_map_without_its_package_says_how_to_get_it(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from muomni_search.server.routes import exploring

    monkeypatch.setattr(exploring, "find_spec", lambda _: None)
    assert "pip install" in problem(http.get(f"{C}/map"), 501, "not-installed")["hint"]


def test_a_job_that_is_not_there_is_not_found(http: httpx.Client) -> None:
    for path in ("x", "x/events", "x/result", "..%2fx"):
        assert http.get(f"/v1/jobs/{path}").status_code == 404
    problem(http.delete("/v1/jobs/x"), 404, "not-found")


# ---- the queue -----------------------------------------------------------------------------------


@pytest.fixture
def held(root: Path) -> Iterator[tuple[Running, Job, threading.Event]]:
    """A server whose thread for jobs is held up by one."""
    may_go = threading.Event()
    with running(Settings(root=root)) as server:

        def work(job: Job) -> Path:
            job.start(2, "waiting")
            while not may_go.wait(0.05):
                job.advance(0)
            (job.folder / "a.json").write_text("{}")
            return job.folder / "a.json"

        jobs = server.served.jobs
        yield server, jobs.submit(Job("map", "small", "held", jobs.folder, work)), may_go


def test_a_job_is_cancelled_at_its_next_step(held: tuple[Running, Job, threading.Event]) -> None:
    server, job, _ = held
    with httpx.Client(base_url=server.url, timeout=30) as http:
        queued = batch(http, {"text": "dog"})
        assert http.delete(f"/v1/jobs/{queued}").status_code == 202
        assert http.delete(f"/v1/jobs/{job.id}").status_code == 202
        assert watch(http, job.id)[-1][0] == "cancelled"
        assert watch(http, queued)[-1][0] == "cancelled"
        problem(http.get(f"/v1/jobs/{job.id}/result"), 409, "conflict")
        for one in (job.id, queued):
            http.delete(f"/v1/jobs/{one}")
            problem(http.get(f"/v1/jobs/{one}"), 404, "not-found")
        assert list(server.served.jobs.folder.iterdir()) == []


def test_a_job_that_is_cancelled_while_it_waits_is_over_at_once(
    held: tuple[Running, Job, threading.Event],
) -> None:
    server, running_job, may_go = held
    jobs = server.served.jobs
    wait_until(lambda: jobs.counts()["running"])

    def ask(subject: object) -> Job:
        job = Job("map", "small", subject, jobs.folder, running_job.work, size=9)
        job.folder.mkdir()
        return jobs.submit(job)

    doomed = ask("this")
    assert jobs.drop(doomed.id).state == "cancelled"
    assert not doomed.folder.exists()
    assert jobs.counts()["queued"] == 0
    wanted = ask("this")
    assert wanted is not doomed
    # One that runs and is about to hear of it makes nothing for others either.
    jobs.drop(running_job.id)
    assert ask("held") is not running_job
    may_go.set()
    wait_until(lambda: wanted.is_over)
    assert (wanted.state, doomed.state) == ("done", "cancelled")


def test_too_many_jobs_are_told_to_wait(held: tuple[Running, Job, threading.Event]) -> None:
    server, _, may_go = held
    with httpx.Client(base_url=server.url, timeout=30) as http:
        wait_until(lambda: server.served.jobs.counts()["running"])
        accepted = [batch(http, {"text": "dog"}) for _ in range(32)]
        files = {"queries": ("q.jsonl", b'{"text": "x"}\n')}
        problem(http.post(f"{C}/batch", files=files), 429, "too-many-requests")
        # Of the refused one nothing is kept.
        assert len(list(server.served.jobs.folder.iterdir())) == 33
        may_go.set()
        assert watch(http, accepted[-1])[-1][0] == "done"


def test_results_that_take_too_much_are_forgotten(root: Path) -> None:
    with (
        running(Settings(root=root, result_bytes=1)) as server,
        httpx.Client(base_url=server.url) as http,
    ):
        first = batch(http, {"text": "dog"})
        assert watch(http, first)[-1][0] == "done"
        second = batch(http, {"text": "dog"})
        assert watch(http, second)[-1][0] == "done"
        problem(http.get(f"/v1/jobs/{first}/result"), 404, "not-found")
        assert http.get(f"/v1/jobs/{second}/result").status_code == 200


def test_queries_that_wait_take_no_more_than_results_may(root: Path) -> None:
    may_go = threading.Event()
    row = b'{"text": "dog"}\n'
    with (
        running(Settings(root=root, result_bytes=3 * len(row))) as server,
        httpx.Client(base_url=server.url, timeout=30) as http,
    ):
        jobs = server.served.jobs

        def work(job: Job) -> Path:
            assert may_go.wait(60)
            (job.folder / "a.json").write_text("{}")
            return job.folder / "a.json"

        held = jobs.submit(Job("map", "small", "held", jobs.folder, work))

        def send(rows: int) -> httpx.Response:
            return http.post(f"{C}/batch", files={"queries": ("q.jsonl", rows * row)})

        last = send(2).json()["job"]
        told = problem(send(2), 429, "too-many-requests")
        assert str(2 * len(row)) in told["detail"]
        wait_until(held.folder.exists)
        assert {one.name for one in jobs.folder.iterdir()} == {held.id, last}
        may_go.set()
        assert watch(http, last)[-1][0] == "done"
        # One alone may be larger: it waits with nobody.
        assert watch(http, send(4).json()["job"])[-1][0] == "done"


def test_a_result_that_goes_while_it_is_asked_for_is_not_found(root: Path) -> None:
    with (
        running(Settings(root=root)) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        job = batch(http, {"text": "dog"})
        assert watch(http, job)[-1][0] == "done"
        # As a request that has found the job sees it, when another one has it forgotten.
        shutil.rmtree(server.served.jobs.get(job).folder)
        told = problem(http.get(f"/v1/jobs/{job}/result"), 404, "not-found")
        assert "again" in told["hint"]
        drawn = http.get(f"{C}/map").json()["job"]
        assert watch(http, drawn)[-1][0] == "done"
        shutil.rmtree(server.served.jobs.get(drawn).folder)
        again = http.get(f"{C}/map")
        assert again.status_code == 202
        assert watch(http, again.json()["job"])[-1][0] == "done"
        assert http.get(f"{C}/map").status_code == 200


def test_a_result_that_goes_before_it_is_sent_is_not_found(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        running(Settings(root=root)) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        job = batch(http, {"text": "dog"})
        assert watch(http, job)[-1][0] == "done"
        jobs = server.served.jobs
        look = jobs.result

        def look_and_lose(number: str) -> tuple[Path, os.stat_result]:
            found = look(number)
            jobs.drop(number)
            return found

        monkeypatch.setattr(jobs, "result", look_and_lose)
        told = problem(http.get(f"/v1/jobs/{job}/result"), 404, "not-found")
        assert "again" in told["hint"]


def test_while_results_are_removed_the_server_answers(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go, has_begun = threading.Event(), threading.Semaphore(0)
    with (
        running(Settings(root=root, result_bytes=1)) as server,
        httpx.Client(base_url=server.url, timeout=20) as http,
        ThreadPoolExecutor() as pool,
    ):
        first = batch(http, {"text": "dog"})
        assert watch(http, first)[-1][0] == "done"
        remove = Job.remove

        def remove_slowly(job: Job) -> None:
            has_begun.release()
            assert may_go.wait(60)
            remove(job)

        monkeypatch.setattr(Job, "remove", remove_slowly)
        try:
            # The next one needs the place of the first, and a client drops the second.
            second = pool.submit(batch, http, {"text": "dog"})
            assert has_begun.acquire(timeout=60)
            problem(http.get(f"/v1/jobs/{first}"), 404, "not-found")
            assert http.get("/v1/health").status_code == 200
            may_go.set()
            job = second.result(60)
            assert watch(http, job)[-1][0] == "done"
            may_go.clear()
            dropped = pool.submit(http.delete, f"/v1/jobs/{job}")
            assert has_begun.acquire(timeout=60)
            problem(http.get(f"/v1/jobs/{job}"), 404, "not-found")
            assert http.get("/v1/health").status_code == 200
        finally:
            may_go.set()
        assert dropped.result(60).status_code == 202
        assert list(server.served.jobs.folder.iterdir()) == []


def test_a_job_is_forgotten_while_another_is_looked_for(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, 1_000)

    def work(job: Job) -> Path:
        (job.folder / "a.json").write_text("{}")
        return job.folder / "a.json"

    class Meddles:
        """What a job is about, and who is compared with it has a job forgotten meanwhile."""

        def __eq__(self, other: object) -> bool:
            if thread.ident is None:
                thread.start()
                thread.join(0.5)  # it waits until the books are free
            return False

        __hash__ = None  # type: ignore[assignment]

    old, older = (jobs.submit(Job("map", "small", name, tmp_path, work)) for name in "ab")
    thread = threading.Thread(target=jobs.forget, args=[older])
    new = jobs.submit(Job("map", "small", Meddles(), tmp_path, work))
    thread.join(60)
    assert jobs.get(old.id) is old
    assert jobs.get(new.id) is new
    with pytest.raises(NotFound):
        jobs.get(older.id)
    jobs.close()


def test_those_who_ask_for_the_same_at_once_share_a_job(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, 1)
    may_go = threading.Event()

    def work(job: Job) -> Path:
        assert may_go.wait(20)
        (job.folder / "a.json").write_text("{}")
        return job.folder / "a.json"

    def ask(subject: object) -> Job:
        return jobs.submit(Job("map", "small", subject, tmp_path, work))

    first = ask("this")
    assert ask("this") is first
    assert ask("that") is not first
    assert ask(None) is not ask(None)
    may_go.set()
    wait_until(lambda: first.is_over)
    assert ask("this") is first
    jobs.drop(first.id)
    assert ask("this") is not first
    jobs.close()


def test_a_server_that_stops_cancels_its_jobs(root: Path) -> None:
    with running(Settings(root=root)) as server:
        jobs = server.served.jobs

        def work(job: Job) -> Path:
            while True:
                job.advance(0)

        job = jobs.submit(Job("map", "small", "endless", jobs.folder, work))
    assert job.state == "cancelled"
    assert not server.served.scratch.exists()


def test_a_result_that_takes_too_much_is_none(root: Path) -> None:
    with (
        running(Settings(root=root, result_bytes=1)) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        rows = [{"text": "a dog", "query_id": "x" * 2_000}] * 200
        name, told = watch(http, batch(http, *rows))[-1]
        assert (name, told["state"]) == ("failed", "failed")
        assert "more than 1,000,000 bytes" in told["error"]
        assert not any(server.served.jobs.folder.iterdir())
