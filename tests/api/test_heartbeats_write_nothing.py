"""I28: a heartbeat writes no row, over HTTP, on a socket, or from a gateway: presence lives in memory."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_relay import Face, Running, running

LATER = ("store_meta", "node", "app", "event")  # what the relay writes by the clock, or when it gets to it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("relay")


@pytest.fixture(scope="module")
def relay(folder: Path) -> Iterator[Running]:
    with running(folder) as one:
        yield one


@pytest.fixture
async def session(face: Face) -> int:
    """Of a handshake, after which the device is online."""
    answer = await face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=face.token)
    return int(answer.json["session"])


def rows(folder: Path) -> list[str]:
    """Everything that is stored."""
    with sqlite3.connect(f"file:{folder / 'relay.db'}?mode=ro", uri=True) as db:
        return [line for line in db.iterdump() if not any(f'INTO "{table}"' in line for table in LATER)]


async def test_i28_over_http(face: Face, session: int, folder: Path) -> None:
    before = rows(folder)
    for _ in range(10):
        beat = await face.call("POST", "/v1/device/heartbeat", {"session": session}, token=face.token)
        assert beat.status == 200, beat.text
    assert rows(folder) == before


async def test_i28_on_a_socket(face: Face, folder: Path) -> None:
    headers = {"Authorization": f"Bearer {face.token}"}
    async with face.http.ws_connect(f"{face.of.url}/v1/device/ws", headers=headers, protocols=["relay.v1.json"]) as ws:
        await ws.send_json({"type": "hello", "store": {"id": "s"}})
        while (await ws.receive_json(timeout=10)).get("type") != "batch":
            pass
        before = rows(folder)
        for n in range(10):
            await ws.send_json({"type": "hb", "ref": str(n)})
            assert (await ws.receive_json(timeout=10))["ref"] == str(n)
        assert rows(folder) == before


async def test_i28_from_a_gateway(face: Face, folder: Path) -> None:
    body = {"devices": [{"user": face.user, "device": "phone", "state": "foreground"}]}
    assert (await face.call("POST", "/v1/presence", body)).status == 200, "a transition, which is one row"
    before = rows(folder)
    for _ in range(10):
        assert (await face.call("POST", "/v1/presence", body)).status == 200
    assert rows(folder) == before


async def test_a_word_that_changes_something_is_a_row(face: Face, session: int, folder: Path) -> None:
    """The look at the rows sees a change."""
    before = rows(folder)
    beat = {"session": session, "state": "background"}
    assert (await face.call("POST", "/v1/device/heartbeat", beat, token=face.token)).status == 200
    assert rows(folder) != before
