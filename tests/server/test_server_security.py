"""Who may ask, and what a request may bring."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest
from server_helpers import C, Running, problem, running

from muomni_search import InvalidInput
from muomni_search.server import run, security
from muomni_search.server.settings import Settings, is_loopback

TOKEN = "a token with späces"


def test_an_address_for_others_wants_a_token(root: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(InvalidInput, match="no token"):
            Settings(root=root, host=host)
        assert Settings(root=root, host=host, token="x").token == "x"
    with pytest.raises(InvalidInput, match="empty"):
        Settings(root=root, token="")
    assert [is_loopback(one) for one in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [
        True
    ] * 4


# ---- names and origins -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "localhost.evil.example", "127.0.0.1.nip.io", "",
             "[evil]", "localhost@evil.example"],
)  # fmt: skip
def test_a_name_that_is_not_ours_is_refused(http: httpx.Client, host: str) -> None:
    problem(http.get("/v1/collections", headers={"Host": host}), 421, "misdirected")
    problem(http.get("/", headers={"Host": host}), 421, "misdirected")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:8765", "10.0.0.1"]
)
def test_addresses_and_localhost_are_ours(http: httpx.Client, host: str) -> None:
    assert http.get("/v1/collections", headers={"Host": host}).status_code == 200


def test_a_name_that_the_server_was_told_is_ours(root: Path) -> None:
    settings = Settings(root=root, hosts=("Muomni.Example",))
    with running(settings) as server, httpx.Client(base_url=server.url) as http:
        answer = http.get("/v1/health", headers={"Host": "muomni.example:443"})
        assert answer.status_code == 200


def test_a_page_of_another_origin_can_neither_write_nor_read(http: httpx.Client) -> None:
    form = {"files": ("a.txt", b"planted")}
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        planted = http.post("/v1/collections/empty/items", files=form, headers=headers)
        problem(planted, 403, "forbidden")
        problem(http.delete(f"{C}/item?key=dog.txt", headers=headers), 403, "forbidden")
    read = http.get(f"{C}/original?key=red.png", headers={"Sec-Fetch-Site": "cross-site"})
    problem(read, 403, "forbidden")
    assert http.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200
    own = {"Origin": str(http.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    asked = {"parts": [{"kind": "text", "value": "x"}]}
    assert http.post(f"{C}/search", json=asked, headers=own).status_code == 200
    assert http.get(f"{C}/item?key=dog.txt").status_code == 200


def test_no_origin_is_allowed_by_any_answer(http: httpx.Client) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (
        http.options(f"{C}/search", headers=asked),
        http.get("/v1/collections", headers={"Origin": "https://evil.example"}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_forbids_guessing_and_framing(http: httpx.Client) -> None:
    for path in ("/", "/page/index.html", "/v1/health", f"{C}/original?key=red.png", "/none"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
    assert http.get(f"{C}/items").headers["cache-control"] == "no-store"
    assert "server" not in http.get("/").headers


@pytest.mark.parametrize(
    "path", ["/page/../settings.py", "/page/%2e%2e/settings.py", "/page/..%2fsettings.py",
             "/page//etc/passwd", "/page/%00", "/page/" + "a" * 5_000],
)  # fmt: skip
def test_only_the_page_is_below_page(server: Running, path: str) -> None:
    with server.connect() as wire:
        wire.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: wire.recv(65536), b"")).decode()
    assert answer.split()[1] in ("404", "400")
    assert "Settings" not in answer


# ---- the token ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(root: Path):
    with running(Settings(root=root, token=TOKEN)) as server:
        yield server


def bearer(token: str) -> dict[str, bytes]:
    return {"Authorization": b"Bearer " + token.encode()}


WRONG = (
    {},
    bearer("wrong"),
    bearer(TOKEN + "x"),
    {"Authorization": "Bearer"},
    {"Authorization": "Basic x"},
)


def test_nothing_is_told_without_the_token(guarded: Running) -> None:
    with httpx.Client(base_url=guarded.url) as http:
        described = http.get("/v1/openapi.json", headers=bearer(TOKEN)).json()
        for path, methods in described["paths"].items():
            for method in methods:
                url = path.replace("{name}", "small").replace("{job}", "x").replace("{upload}", "x")
                if url in security.OPEN:
                    continue
                for headers in (*WRONG, {"Cookie": f"muomni_session_{guarded.port}=1.x"}):
                    answer = http.request(method, url, headers=headers)
                    problem(answer, 401, "unauthorized")
                    assert answer.headers["www-authenticate"] == "Bearer"
        problem(http.get("/v1/openapi.json"), 401, "unauthorized")
        problem(http.get("/none"), 401, "unauthorized")
        assert http.get("/").status_code == 200
        assert http.get("/page/index.html").status_code == 200
        assert http.get("/v1/health").status_code == 200
        assert http.get(f"{C}/items", headers=bearer(TOKEN)).status_code == 200


def test_a_cookie_stands_for_the_token(guarded: Running) -> None:
    with httpx.Client(base_url=guarded.url) as http:
        told = http.get("/v1/session").json()
        assert told == {"token_required": True, "authenticated": False}
        problem(http.post("/v1/session", json={"token": "wrong"}), 401, "unauthorized")
        answer = http.post("/v1/session", json={"token": TOKEN})
        assert answer.status_code == 204
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie
        assert http.get("/v1/session").json()["authenticated"]
        assert http.get(f"{C}/original?key=red.png").status_code == 200
        assert http.delete("/v1/session").status_code == 204
        problem(http.get(f"{C}/items"), 401, "unauthorized")


def test_two_servers_of_a_host_keep_a_session_each(guarded: Running, root: Path) -> None:
    with (
        running(Settings(root=root, token="another")) as other,
        httpx.Client() as browser,  # which, like others, keeps cookies by host, not by port
    ):
        servers = (guarded.url, TOKEN), (other.url, "another")
        for url, token in servers:
            assert browser.post(f"{url}/v1/session", json={"token": token}).status_code == 204
        for url, _ in servers:
            assert browser.get(f"{url}/v1/collections").status_code == 200
        described = browser.get(f"{other.url}/v1/openapi.json").json()
        name = described["components"]["securitySchemes"]["cookie"]["name"]
        assert name in browser.cookies
        browser.delete(f"{other.url}/v1/session")
        assert browser.get(f"{guarded.url}/v1/collections").status_code == 200
        problem(browser.get(f"{other.url}/v1/collections"), 401, "unauthorized")


def test_a_cookie_is_neither_forged_nor_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = security.Sessions(TOKEN, 8765)
    cookie = sessions.begin()
    assert sessions.is_session(cookie)
    until, _, signature = cookie.partition(".")
    for forged in ("", ".", until, f"{int(until) + 1}.{signature}", f"{until}.{'0' * 64}", "é.é",
                   f"{until}.", f" {cookie}", "9" * 5_000 + "." + signature):  # fmt: skip
        assert not sessions.is_session(forged)
    assert not security.Sessions("another", 8765).is_session(cookie)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + security.SESSION_SECONDS + 2)
    assert not sessions.is_session(cookie)


# ---- what a request brings ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(root: Path):
    """A server with narrow limits."""
    settings = Settings(root=root, max_body=2_000, max_upload=5_000, idle=0.5)
    with running(settings) as server:
        yield server


def ask(server: Running, head: str, *pieces: bytes) -> str:
    """Send a request as it is; return the whole answer, or what came until the server hung up."""
    with server.connect() as wire:
        wire.sendall(f"{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        for piece in pieces:
            try:
                wire.sendall(piece)
            except OSError:
                break
        answer = b""
        try:
            while data := wire.recv(65536):
                answer += data
        except OSError:
            pass
        return answer.decode()


SEARCH = f"POST {C}/search HTTP/1.1\r\nContent-Type: application/json"


def test_a_body_over_the_limit_is_refused(narrow: Running) -> None:
    with httpx.Client(base_url=narrow.url) as http:
        large = {"parts": [{"kind": "text", "value": "x" * 3_000}]}
        problem(http.post(f"{C}/search", json=large), 413, "too-large")
        told = http.post(f"{C}/search", content=iter([b"x" * 1_500] * 2),
                         headers={"Content-Type": "application/json"})  # fmt: skip
        problem(told, 413, "too-large")
        file = {"files": ("a.txt", b"x" * 6_000)}
        problem(http.post(f"{C}/items", files=file), 413, "too-large")
        problem(http.post("/v1/uploads", files={"file": ("a", b"x" * 6_000)}), 413, "too-large")
        small = {"parts": [{"kind": "text", "value": "x" * 1_000}]}
        assert http.post(f"{C}/search", json=small).status_code == 200


def test_a_length_that_is_a_lie_costs_nothing(narrow: Running) -> None:
    body = json.dumps({"parts": [{"kind": "text", "value": "dog"}]}).encode()
    # More than it says: the rest is not the body's.
    assert " 200 " in ask(narrow, f"{SEARCH}\r\nContent-Length: {len(body)}", body + b"xxxx")
    # Less than it says: it does not come in time.
    assert " 408 " in ask(narrow, f"{SEARCH}\r\nContent-Length: {len(body) + 100}", body)
    # More than there may be, and nothing sent.
    assert " 413 " in ask(narrow, f"{SEARCH}\r\nContent-Length: 99999999999")
    for wrong in ("-1", "abc", "1e3", "99999999999999999999999999"):
        assert " 400 " in ask(narrow, f"{SEARCH}\r\nContent-Length: {wrong}")


def test_a_client_that_stops_half_way_is_not_waited_for(narrow: Running, root: Path) -> None:
    head = f"POST {C}/items HTTP/1.1\r\nContent-Type: application/x-ndjson\r\nContent-Length: 900"
    assert " 408 " in ask(narrow, head, b'{"key": "half", "text": "x"}\n')
    form = f"POST {C}/items HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b"
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nwords'
    assert " 408 " in ask(narrow, f"{form}\r\nContent-Length: 900", part)
    with narrow.connect() as wire:  # and one that hangs up
        wire.sendall(f"{form}\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n".encode() + part)
    with httpx.Client(base_url=narrow.url) as http:
        assert http.get(f"{C}/items").json()["items"].__len__() == 7
    assert not (root / "small-uploads").exists() or not list((root / "small-uploads").iterdir())


def test_headers_without_end_are_cut_off(narrow: Running) -> None:
    with narrow.connect() as wire:
        wire.sendall(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nX: ")
        answer = b""
        try:
            for _ in range(2_000):
                wire.sendall(b"x" * 1_000)
            answer = wire.recv(1_000)
        except ConnectionError:
            pass  # but no wait in vain
        else:
            assert b" 431 " in answer or b" 400 " in answer


def test_a_client_that_says_nothing_is_hung_up_on(
    narrow: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "HEAD_SECONDS", 0.3)
    for begun in (b"", b"GET /v1/health HTTP/1.1\r\nHo"):
        with narrow.connect() as wire:
            wire.sendall(begun)
            wire.settimeout(20)
            assert wire.recv(1_000) == b""
    with narrow.connect() as wire:  # also between two requests
        wire.sendall(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in wire.recv(10_000)
        wire.sendall(b"GET /v1")
        while wire.recv(10_000):
            pass
