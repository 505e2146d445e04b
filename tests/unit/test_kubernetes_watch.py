"""The watch's parser, and what answers of an API server mean: without a server."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hybrid_executor.backends.kubernetes.answer import Answer, creation_answer, read_answer
from hybrid_executor.backends.kubernetes.client import keepalive_options
from hybrid_executor.backends.kubernetes.config import KubernetesConfig, WatchTiming
from hybrid_executor.backends.kubernetes.gate import Gate
from hybrid_executor.backends.kubernetes.upkeep import delete_options
from hybrid_executor.backends.kubernetes.watch import Changed, Reflector, Removed, Stream
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.observation import Rejected, Waiting
from hybrid_executor.model.reason import Reason

#: Bodies of refused creations, as an API server 1.36 sent them.
RECORDED = json.loads(Path(__file__).with_name("recorded_answers.json").read_text(encoding="utf-8"))
SUBMISSION = SubmissionId("0198f0aa-2b6c-7d3e-8f10-1234567890ab", 1)


def line(kind: str, version: str, **more: Any) -> bytes:
    thing = {"metadata": {"name": f"pod-{version}", "resourceVersion": version}, **more}
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"


LINES = [
    line("ADDED", "11"),
    line("MODIFIED", "12", note="a line break \n inside and an é"),
    line("BOOKMARK", "19"),
    line("DELETED", "23"),
]


@given(st.lists(st.integers(min_value=1, max_value=len(b"".join(LINES)) - 1), unique=True).map(sorted))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    whole, stream = b"".join(LINES), Stream("10")
    chunks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    events = [event for chunk in chunks for event in stream.feed(chunk)]
    assert [(type(e), e.pod["metadata"]["name"]) for e in events] == [
        (Changed, "pod-11"),
        (Changed, "pod-12"),
        (Removed, "pod-23"),
    ]
    assert stream.resource_version == "23"
    assert stream.spoke


def test_a_bookmark_moves_the_stream_on_and_counts_as_speech() -> None:
    stream = Stream("10")
    assert list(stream.feed(line("BOOKMARK", "15"))) == []
    assert (stream.resource_version, stream.spoke) == ("15", True)


def test_half_a_line_says_nothing_yet() -> None:
    stream = Stream("10")
    assert list(stream.feed(LINES[0][:-1])) == []
    assert (stream.resource_version, stream.spoke) == ("10", False)


@pytest.mark.parametrize(
    "status", [{"code": 410, "reason": "Expired"}, {"code": 410, "reason": "Gone"}, {"reason": "Expired"}]
)
def test_an_expiry_inside_the_stream_is_a_410_af44127(status: dict[str, Any]) -> None:
    error = json.dumps({"type": "ERROR", "object": {"kind": "Status", **status}}).encode()
    with pytest.raises(Answer) as raised:
        list(Stream("10").feed(error + b"\n"))
    assert raised.value.code == 410


def test_another_error_inside_the_stream_keeps_its_code() -> None:
    error = json.dumps({"type": "ERROR", "object": {"code": 500, "reason": "InternalError"}}).encode()
    with pytest.raises(Answer) as raised:
        list(Stream("10").feed(error + b"\n"))
    assert raised.value.is_back_pressure


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (403, 'pods "x" is forbidden: exceeded quota: compute, requested: pods=1', Reason.QUOTA),
        (403, "pods is forbidden: maximum memory usage per Pod is 1Gi, but limit is 2Gi", Reason.QUOTA),
        (403, 'pods is forbidden: status unknown for quota: "compute"', Reason.QUOTA),
        (403, 'pods is forbidden: User "airflow" cannot create resource "pods"', Reason.FORBIDDEN),
        (401, "Unauthorized", Reason.FORBIDDEN),
        (404, 'namespaces "airflow" not found', Reason.FORBIDDEN),
        (409, "the object has been modified", Reason.CONFLICT),
        (429, "too many requests", Reason.THROTTLED),
        (500, "etcdserver: leader changed", Reason.API_UNAVAILABLE),
        (503, "shutting down", Reason.API_UNAVAILABLE),
    ],
)
def test_back_pressure_is_a_wait(code: int, message: str, reason: Reason) -> None:
    outcome = creation_answer(SUBMISSION, Answer(code, "", message))
    assert isinstance(outcome, Waiting)
    assert outcome.reason is reason
    assert outcome.retry_after_s
    assert message in outcome.message


@pytest.mark.parametrize("code", [400, 413, 422])
def test_an_invalid_pod_is_a_rejection_with_the_servers_words(code: int) -> None:
    message = 'Pod "x" is invalid: spec.containers[0].image: Required value'
    outcome = creation_answer(SUBMISSION, Answer(code, "Invalid", message))
    assert isinstance(outcome, Rejected)
    assert "spec.containers[0].image: Required value" in outcome.diagnosis.message


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: str(recorded["of"]))
def test_what_a_real_api_server_said_is_understood(recorded: dict[str, Any]) -> None:
    body = recorded["body"]
    raw = body if isinstance(body, str) else json.dumps(body)
    words = body if isinstance(body, str) else body["message"]
    answer = read_answer(recorded["code"], raw.encode(), {})
    outcome = creation_answer(SUBMISSION, answer)
    for_good = recorded["means"] in {Reason.REFUSED, Reason.INVALID_POD}
    assert isinstance(outcome, Rejected if for_good else Waiting)
    reason, message = (
        (outcome.diagnosis.reason, outcome.diagnosis.message)
        if isinstance(outcome, Rejected)
        else (outcome.reason, outcome.message)
    )
    assert reason == recorded["means"]
    assert words in message
    assert not (for_good and answer.is_back_pressure)


@given(st.binary(max_size=200), st.integers(300, 599), st.text(max_size=20))
@example(b"", 429, "²")  # a digit to Python, and no number
def test_any_body_is_read(body: bytes, code: int, retry_after: str) -> None:
    answer = read_answer(code, body, {"Retry-After": retry_after})
    assert answer.code == code
    assert answer.retry_after_s is None or 0 <= answer.retry_after_s <= 300


def test_retry_after_is_honoured_up_to_a_limit() -> None:
    assert read_answer(429, b"", {"Retry-After": "7"}).retry_after_s == 7
    assert read_answer(429, b"", {"Retry-After": "86400"}).retry_after_s == 300


def test_the_gate_closes_longer_with_each_failure_and_opens_again() -> None:
    now = [100.0]
    gate = Gate(lambda: now[0])
    assert gate.wait(SUBMISSION) is None
    waits = []
    for _ in range(8):
        gate.close(Waiting(SUBMISSION, Reason.API_UNAVAILABLE, "away", retry_after_s=0.0))
        wait = gate.wait(SUBMISSION)
        assert wait is not None
        assert wait.retry_after_s is not None
        waits.append(wait.retry_after_s)
        now[0] += wait.retry_after_s
        assert gate.wait(SUBMISSION) is None
    assert waits == sorted(waits)
    assert waits[-1] == 10.0
    gate.open()
    asked = Waiting(SUBMISSION, Reason.THROTTLED, "asked for patience", retry_after_s=3.0)
    assert gate.close(asked) is asked
    assert gate.wait(SUBMISSION) == asked


def test_delete_options_take_the_names_of_the_python_client() -> None:
    given = {"grace_period_seconds": 10, "propagationPolicy": "Foreground"}
    assert delete_options(given) == {"gracePeriodSeconds": 10, "propagationPolicy": "Foreground"}


def test_keepalive_options_are_the_users() -> None:
    with socket.socket() as connection:
        for option in keepalive_options(KubernetesConfig(tcp_keepalive_idle_s=77)):
            connection.setsockopt(*option)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77


class OneWatch:
    """An API whose list is empty and whose watches end in silence at the server's own timeout."""

    def __init__(self) -> None:
        self.lists = 0
        self.watches: list[str] = []

    async def pages(self, scope: str | None, selector: str) -> AsyncIterator[dict[str, Any]]:
        self.lists += 1
        yield {"metadata": {"resourceVersion": str(10 * self.lists)}, "items": []}

    @asynccontextmanager
    async def watch(
        self, scope: str | None, query: Mapping[str, str], deadline_s: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.watches.append(query["resourceVersion"])
        yield self._chunks(float(query["timeoutSeconds"]), deadline_s)

    async def _chunks(self, server_timeout_s: float, _: float) -> AsyncIterator[bytes]:
        await asyncio.sleep(server_timeout_s)
        for chunk in ():
            yield chunk


class OneWordThenNothing(OneWatch):
    """Its watches speak once and are then cut off by nobody but the client's own deadline."""

    async def _chunks(self, _: float, deadline_s: float) -> AsyncIterator[bytes]:
        yield line("BOOKMARK", self.watches[-1])
        await asyncio.sleep(deadline_s)
        raise TimeoutError


class Nobody:
    """A sink that needs to know nothing."""

    def listing(self, scope: str | None, began: float) -> None: ...

    def listed(self, scope: str | None) -> None: ...

    def changed(self, pod: Any) -> None: ...

    def removed(self, pod: Any) -> None: ...


@pytest.mark.parametrize("api", [OneWatch(), OneWordThenNothing()], ids=["no word", "one word"])
async def test_a_silent_watch_is_followed_by_a_list_af36998(api: OneWatch) -> None:
    timing = WatchTiming(server_timeout_min_s=1, server_timeout_max_s=1, slack_s=0.2, backoff_first_s=0.01)
    reflector = asyncio.create_task(Reflector(api, None, "", Nobody(), timing).run())  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        while len(api.watches) < 2:
            await asyncio.sleep(0.02)
    reflector.cancel()
    assert api.lists == 2
    assert api.watches == ["10", "20"]
