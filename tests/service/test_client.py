"""The client's promises: what it repeats, what it never repeats, and what it tells of a refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client import LONGEST_PAUSE_S, RETRY_PAUSES_S, ApiProblem, Client, ServerUnreachable
from service.security import Scope

Handler = Callable[[httpx.Request], httpx.Response]
TOKEN = {"id": "tok_1", "token": "lt_tok_x", "expires_at": "2030-01-01T00:00:00Z"}


def problem(status: int, code: str, **extra: Any) -> httpx.Response:
    document = {
        "type": f"/problems/{code}",
        "title": "A title",
        "status": status,
        "detail": "what to do about it",
        "code": code,
        "instance": "/v1/x",
        "request_id": "r",
    }
    return httpx.Response(status, json=document | extra, headers={"Content-Type": "application/problem+json"})


class Server:
    """Answers in turn with what it is given, the last one for ever; keeps the requests and the pauses
    between.
    """

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.bodies: list[bytes] = []
        self.pauses_s: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.bodies.append(request.read())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self) -> Client:
        transport = httpx.MockTransport(self)
        return Client("http://server", "lt_key_x", transport=transport, sleep=self.pauses_s.append)


def test_a_post_is_repeated_under_one_idempotency_key() -> None:
    server = Server(
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("too slow"),
        problem(503, "unavailable"),
        problem(409, "idempotency_in_progress"),
        httpx.Response(201, json=TOKEN),
    )
    assert server.client().create_registration_token().token == "lt_tok_x"
    assert len({request.headers["Idempotency-Key"] for request in server.requests}) == 1
    assert len(set(server.bodies)) == 1
    assert tuple(server.pauses_s) == RETRY_PAUSES_S[:4]


def test_two_calls_have_two_keys() -> None:
    server = Server(httpx.Response(201, json=TOKEN))
    client = server.client()
    client.create_registration_token()
    client.create_registration_token()
    first, second = server.requests
    assert first.headers["Idempotency-Key"] != second.headers["Idempotency-Key"]


@pytest.mark.parametrize(
    ("asked", "pause_s"), [("3", 3.0), ("86400", LONGEST_PAUSE_S), ("soon", RETRY_PAUSES_S[0])]
)
def test_retry_after_is_kept_to_within_reason(asked: str, pause_s: float) -> None:
    busy = problem(429, "slow_down")
    busy.headers["Retry-After"] = asked
    server = Server(busy, httpx.Response(201, json=TOKEN))
    server.client().create_registration_token()
    assert server.pauses_s == [pause_s]


@pytest.mark.parametrize("status", [401, 403, 404, 409, 413, 422, 500])
def test_a_refusal_is_not_repeated_and_says_everything(status: int) -> None:
    server = Server(problem(status, "some_code", missing=["x[0]"]))
    with pytest.raises(ApiProblem, match="what to do about it") as caught:
        server.client().create_key("ci", [Scope.READ])
    assert (caught.value.status, caught.value.code) == (status, "some_code")
    assert caught.value.fields["missing"] == ["x[0]"]
    assert len(server.requests) == 1


def test_silence_ends_in_one_clear_error() -> None:
    server = Server(httpx.ConnectError("Connection refused"))
    with pytest.raises(ServerUnreachable, match=r"http://server.*Connection refused.*laptime serve"):
        list(server.client().targets())
    assert len(server.requests) == len(RETRY_PAUSES_S) + 1


def test_a_stranger_on_the_port_is_recognised() -> None:
    server = Server(httpx.Response(200, text="<html>hello</html>"))
    with pytest.raises(ApiProblem, match="same version"):
        server.client().job("job_1")
    other = Server(httpx.Response(502, text="<html>bad gateway</html>"))
    with pytest.raises(ApiProblem, match="502 Bad Gateway"):
        other.client().job("job_1")


def test_lists_follow_the_cursor() -> None:
    def target(number: int) -> dict[str, Any]:
        return {
            "id": f"tgt_{number}",
            "key": f"board{number}/fake-1.0/cpu/t1",
            "device_id": "dev_1",
            "device_key": "board",
            "runtime": {"engine": "fake", "version": "1.0", "provider": "cpu", "threads": 1},
            "state": "ready",
            "state_reason": None,
            "predictor": None,
            "onboarding_job_id": None,
            "created_at": "2030-01-01T00:00:00Z",
        }

    server = Server(
        httpx.Response(200, json={"items": [target(1), target(2)], "next_cursor": "c"}),
        httpx.Response(200, json={"items": [target(3)], "next_cursor": None}),
    )
    assert [one.id for one in server.client().targets(state="ready")] == ["tgt_1", "tgt_2", "tgt_3"]
    first, second = (dict(request.url.params) for request in server.requests)
    assert first == {"state": "ready", "limit": "200"}
    assert second == {"state": "ready", "limit": "200", "cursor": "c"}


def test_an_upload_is_sent_whole_at_every_try(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"x" * 3_000_000)
    model = {
        "id": "mdl_1",
        "sha256": "0" * 64,
        "name": "model.onnx",
        "size_bytes": 3_000_000,
        "inputs": [],
        "summary": {},
        "origin": "upload",
        "created_at": "2030-01-01T00:00:00Z",
    }
    server = Server(httpx.WriteError("broken pipe"), httpx.Response(200, json=model))
    uploaded, is_new = server.client().upload_model(file)
    assert (uploaded.id, is_new) == ("mdl_1", False)
    assert [len(body) for body in server.bodies] == [3_000_000, 3_000_000]
    digests = {request.headers["Content-Digest"] for request in server.requests}
    assert digests == {"sha-256=:5VuL32Id2qj0YsdHRduWgNO7dTapz4VPjWZos0ooeJA=:"}


def test_a_download_that_fails_leaves_no_file(tmp_path: Path) -> None:
    server = Server(problem(404, "not_found"))
    with pytest.raises(ApiProblem):
        server.client().download_model("mdl_1", tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
