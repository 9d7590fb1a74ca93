"""Connections: who is slow, silent or rude, and what others notice of it."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from fl.inference import Predictor
from server.serving import connection as connections
from server.serving import front
from server.serving.api import Options, create_api
from server.serving.limits import Limits
from server.serving.listening import make_server, open_port
from tests.server.serving.apis import connect, digits, standing

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Serve = Callable[..., httpx.Client]

LIVE = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"


def read_all(connection: socket.socket) -> bytes:
    found = b""
    while part := connection.recv(65536):
        found += part
    return found


def predict(*headers: str, examples: int = 1, fill: int = 0) -> bytes:
    body = json.dumps({"inputs": digits(examples)}).encode() + b" " * fill
    told = "".join(f"{header}\r\n" for header in headers)
    start = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{told}"
    return start.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


def test_who_sends_slowly_is_not_waited_for(impatient: httpx.Client) -> None:
    with connect(impatient) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{"
        )
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not come within 0.4 s" in answer
    for beginning in (b"", b"POST /predict HT", b"POST /predict HTTP/1.1\r\nhost: x\r\nx-a: "):
        with connect(impatient) as connection:
            connection.sendall(beginning)
            assert read_all(connection) == b""
    with connect(impatient) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * 100_000)
        assert read_all(connection).startswith(b"HTTP/1.1 400")


def test_who_is_silent_makes_room_for_who_asks(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 8)
    api = serve(standing("digits"))
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(api)) for _ in range(30)]
        for _ in range(3):
            with httpx.Client(base_url=api.base_url, trust_env=False) as another:
                assert another.get("/health/live").status_code == 200
                assert another.post("/predict", json={"inputs": digits(1)}).status_code == 200
        for connection in silent[:14]:
            assert read_all(connection) == b""
        silent[-1].sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert read_all(silent[-1]).startswith(b"HTTP/1.1 200")


def test_what_comes_behind_a_chunked_body_is_not_kept(impatient: httpx.Client) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n")
        connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
        connection.sendall(b"x-api-key: late\r\n" * 3000 + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 422")


def test_who_comes_at_once_with_many_others_is_answered(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 8)
    api = serve(standing("digits"))
    with contextlib.ExitStack() as stack:
        burst = [stack.enter_context(connect(api)) for _ in range(16)]
        for connection in burst:
            connection.sendall(LIVE)
        for connection in burst:
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        time.sleep(1.1)
        another = stack.enter_context(connect(api))
        another.sendall(LIVE)
        assert another.recv(1000).startswith(b"HTTP/1.1 200")
        assert read_all(burst[0]) == b""  # Now it was silent for a while.


def test_more_requests_than_are_handled_at_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "_REQUESTS", 2)
    api = serve(standing("digits"))
    with contextlib.ExitStack() as stack:
        begun = [stack.enter_context(connect(api)) for _ in range(2)]
        for connection in begun:
            connection.sendall(predict()[:-1])
        end = time.monotonic() + 10
        while (answer := api.post("/predict", json={"inputs": digits(1)})).status_code == 200:
            assert time.monotonic() < end
        assert answer.status_code == 503
        assert answer.json()["error"] == "too many requests at once; try again"
        assert answer.headers["retry-after"] == "1"
        assert api.get("/health/live").status_code == 200
        for connection in begun:
            connection.sendall(b"}")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert api.post("/predict", json={"inputs": digits(1)}).status_code == 200
    assert 'path="other",status="503"' in api.get("/metrics").text


@pytest.mark.parametrize("offer", ["h2c", "websocket"])
def test_an_offer_of_another_protocol_is_not_taken(
    serve: Serve, offer: str, caplog: pytest.LogCaptureFixture
) -> None:
    api = serve(standing("digits"))
    asked = predict(
        "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {offer}", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"
    )
    with connect(api) as connection:
        for part in (asked, asked[:-20], asked[-20:], asked + LIVE):
            connection.sendall(part)
            if part != asked[:-20]:
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    chunked = asked.partition(b"content-length")[0] + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    with connect(api) as connection:
        connection.sendall(chunked + LIVE.replace(b"host", b"connection: close\r\nhost"))
        first, second = read_all(connection).split(b"HTTP/1.1 ")[1:]
    assert (first[:3], second[:3]) == (b"422", b"200")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("rude", [b"nonsense\r\n\r\n", b"GET /" + b"a" * 300_000])
def test_what_was_asked_before_is_answered_first(serve: Serve, rude: bytes) -> None:
    api = serve(standing("digits"))
    with connect(api) as connection:
        connection.sendall(predict(examples=300) + LIVE + rude)
        answer = read_all(connection)
    first, second, *third = answer.split(b"HTTP/1.1 ")[1:]
    assert (first[:3], second[:3]) == (b"200", b"200")
    assert second.endswith(b'{"live":true}')
    assert [bad[:3] for bad in third] in ([], [b"400"])


@pytest.mark.parametrize("rude", [b"zz", b""])
def test_what_waits_is_refused_in_its_turn(serve: Serve, rude: bytes) -> None:
    api = serve(standing("digits"), Options(limits=Limits(seconds=0.5)))
    head = predict().partition(b"content-length")[0]
    with connect(api) as connection:
        connection.sendall(predict(examples=300) + head + b"transfer-encoding: chunked\r\n\r\n" + rude)
        first, second = read_all(connection).split(b"HTTP/1.1 ")[1:]
    assert first[:3] == b"200"
    assert second[:3] in (b"400", b"408")


def test_who_asks_ahead_without_end_costs_no_memory(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    api = serve(standing("digits"))
    waiting: list[int] = []
    keep_time = connections.Connection._keep_time

    def noted(self: connections.Connection) -> None:
        waiting.append(len(self.pipeline))
        keep_time(self)

    monkeypatch.setattr(connections.Connection, "_keep_time", noted)
    with connect(api) as connection:
        connection.sendall(LIVE * 20)
        found = b""
        while found.count(b"HTTP/1.1 200") < 20:
            found += connection.recv(65536)
        with contextlib.suppress(ConnectionError):
            connection.sendall(LIVE * 20_000)
            found = read_all(connection)
    assert 0 < found.count(b"HTTP/1.1 200") <= 20_000
    assert 0 < max(waiting) <= connections._WAITING


@pytest.mark.parametrize("path", [b"/health/live", b"/predict", b"/nothing"])
def test_a_bad_body_has_one_answer_and_is_no_bug(serve: Serve, path: bytes, caplog: pytest.LogCaptureFixture) -> None:
    api = serve(standing("digits"))
    head = predict().partition(b"content-length")[0].replace(b"/predict", path)
    with connect(api) as connection:
        connection.sendall(head + b"transfer-encoding: chunked\r\n\r\nZZ\r\n")
        assert read_all(connection).count(b"HTTP/1.1 4") == 1
    with connect(api) as connection:
        connection.sendall(head + b"transfer-encoding: chunked\r\n\r\n")
        time.sleep(0.2)
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"ZZ\r\n" + b"a" * 100_000)
        assert read_all(connection).count(b"HTTP/1.1 4") == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_what_waits_unread_is_not_late(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = Predictor.outputs

    def slow(self: Predictor, x: NDArray[Any]) -> Any:
        if len(x) > 100:
            time.sleep(0.7)
        return outputs(self, x)

    api = serve(standing("digits"), Options(limits=Limits(seconds=1)))
    monkeypatch.setattr(Predictor, "outputs", slow)
    whole = predict(examples=101)
    with connect(api) as connection:
        connection.sendall(whole * 3 + whole[:50])
        time.sleep(0.1)
        connection.sendall(whole[50:] + LIVE.replace(b"host", b"connection: close\r\nhost"))
        answers = read_all(connection).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200"] * 5


def test_who_is_refused_hears_it_whatever_is_still_sent(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "_REQUESTS", 0)
    api = serve(standing("digits"))
    with connect(api) as connection:
        connection.sendall(predict(fill=3_000_000))
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"connection: close" in answer


def test_headers_are_limited_by_number_too(serve: Serve) -> None:
    api = serve(standing("digits"))
    for headers in (b"a:\r\n" * 10_000, b"a: " + b"a" * 70_000 + b"\r\n"):
        with connect(api) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(LIVE[:-2] + headers + b"\r\n")
            assert read_all(connection).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("ending", [b"0\r\nx: ", b"5;x="])
def test_what_has_no_end_is_cut(serve: Serve, ending: bytes) -> None:
    api = serve(standing("digits"))
    head = predict().partition(b"content-length")[0]
    with connect(api) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(head + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n" + ending + b"a" * 200_000)
        assert read_all(connection).startswith(b"HTTP/1.1 4")


def test_a_tunnel_is_refused(serve: Serve) -> None:
    api = serve(standing("digits"))
    with connect(api) as connection:
        connection.sendall(b"CONNECT /x HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n")
        time.sleep(0.1)
        with contextlib.suppress(ConnectionError):
            connection.sendall(LIVE)
        assert b"200" not in read_all(connection)


def test_a_long_body_counts_as_nobodys_headers(serve: Serve) -> None:
    api = serve(standing("digits"))
    with connect(api) as connection:
        connection.sendall(predict(fill=200_000) + LIVE[:20])
        time.sleep(0.2)
        connection.sendall(LIVE[20:])
        found = b""
        while not found.endswith(b'{"live":true}'):
            part = connection.recv(65536)
            assert part, found
            found += part
    assert found.count(b"HTTP/1.1 200") == 2


def test_no_connection_is_without_a_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    api = serve(standing("digits"))
    begun: list[float] = []
    keep_time = connections.Connection._keep_time

    def noted(self: connections.Connection) -> None:
        keep_time(self)
        begun.append(0 if self._is_open() else bool(self._timer or self.timeout_keep_alive_task))

    monkeypatch.setattr(connections.Connection, "_keep_time", noted)
    with connect(api) as stray, connect(api) as early:
        stray.sendall(LIVE)
        assert stray.recv(1000).startswith(b"HTTP/1.1 200")
        stray.sendall(b"\r\n")
        early.sendall(b"POST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n")
        assert early.recv(1000).startswith(b"HTTP/1.1 404")
        early.sendall(b"12345")
        end = time.monotonic() + 10
        while len(begun) < 4:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert sorted(begun) == [False, False, True, True]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system knows no such time")
def test_who_does_not_read_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    with open_port("127.0.0.1", 0, 1.0) as opened:
        server = make_server(create_api(standing("digits")), 1.0)
        thread = threading.Thread(target=server.run, args=([opened],), daemon=True)
        thread.start()
        asked = predict(examples=1000)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.settimeout(20)
            connection.connect(opened.getsockname())
            with pytest.raises(ConnectionError):  # noqa: PT012
                while True:
                    connection.sendall(asked)
        server.should_exit = True
        thread.join(20)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
