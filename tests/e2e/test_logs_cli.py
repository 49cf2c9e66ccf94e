"""`relay logs pull` against a relay: whole files, checked; what was cut off goes on; what is damaged is not taken."""

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from relay.cli import logs, main

HOUR = "2026-05-03T09"


def log(lines: int = 2000) -> bytes:
    body = b"".join(b'{"kind":"message","id":"%d"}\n' % n for n in range(lines))
    trailer = {"messages": lines, "events": 0, "sha256": hashlib.sha256(body).hexdigest()}
    return gzip.compress(body + json.dumps({"trailer": trailer}).encode() + b"\n", mtime=0)


class Source:
    """Serves one log, in parts if asked; `cuts` connections break in the middle first."""

    def __init__(self, path: Path) -> None:
        self.path, self.cuts, self.ranges = path, 0, list[str | None]()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.ranges.append(request.headers.get("Range"))
        if self.cuts:
            self.cuts -= 1
            whole = self.path.read_bytes()
            answer = web.StreamResponse(headers={"Content-Length": str(len(whole))})
            await answer.prepare(request)
            await answer.write(whole[: len(whole) // 2])
            assert request.transport is not None
            request.transport.close()
            return answer
        return web.FileResponse(self.path)


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[tuple[Source, str]]:
    path = tmp_path / "log"
    path.write_bytes(log())
    one = Source(path)
    app = web.Application()
    app.router.add_get(f"/v1/logs/{HOUR}", one.serve)
    (tmp_path / "to").mkdir()
    async with TestServer(app) as server:
        yield one, str(server.make_url("")).rstrip("/")


async def test_a_download_that_is_cut_off_goes_on_where_it_was(source: tuple[Source, str], tmp_path: Path) -> None:
    one, url = source
    one.cuts = 1
    assert await logs._pull((HOUR,), tmp_path / "to", url, "k") == 0
    assert (tmp_path / "to" / f"{HOUR}.ndjson.gz").read_bytes() == log()
    half = len(log()) // 2
    assert one.ranges == [None, f"bytes={half}-"]


async def test_what_is_there_already_is_not_asked_for(source: tuple[Source, str], tmp_path: Path) -> None:
    one, url = source
    for _ in range(2):
        assert await logs._pull((HOUR,), tmp_path / "to", url, "k") == 0
    assert len(one.ranges) == 1


async def test_what_is_damaged_is_not_taken(source: tuple[Source, str], tmp_path: Path) -> None:
    one, url = source
    one.path.write_bytes(log()[:-20])
    assert await logs._pull((HOUR,), tmp_path / "to", url, "k") == 65
    assert list((tmp_path / "to").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = CliRunner().invoke(main, ["logs", "pull", "--key", "k", "--to", str(tmp_path / "file" / "below")])
    assert ran.exit_code == 2
    assert "cannot be made (Not a directory)" in ran.output


async def test_a_file_that_cannot_be_written_is_said_in_a_line(source: tuple[Source, str], tmp_path: Path) -> None:
    _, url = source
    (tmp_path / "to" / f"{HOUR}.ndjson.part").mkdir()
    ran = await asyncio.to_thread(
        CliRunner().invoke, main, ["logs", "pull", HOUR, "--url", url, "--key", "k", "--to", str(tmp_path / "to")]
    )
    assert (ran.exit_code, ran.output) == (74, f"{tmp_path}/to/{HOUR}.ndjson.part: Is a directory\n")


async def test_an_hour_that_is_refused_is_said_and_the_others_come(source: tuple[Source, str], tmp_path: Path) -> None:
    _, url = source
    assert await logs._pull(("2020-01-01T00", HOUR), tmp_path / "to", url, "k") == 65
    assert [path.name for path in (tmp_path / "to").iterdir()] == [f"{HOUR}.ndjson.gz"]


@pytest.mark.parametrize(
    ("logs_", "said", "there"),
    [
        (
            [{"hour": HOUR, "empty": False}, {"hour": "2026-05-03T08", "empty": True}],
            "2000 messages",
            [f"{HOUR}.ndjson.gz"],
        ),
        ([{"hour": HOUR, "empty": True}], "There is nothing in any hour", []),
        ([], "There is nothing in any hour", []),
        ([{"hour": HOUR}], "2000 messages", [f"{HOUR}.ndjson.gz"]),
    ],
)
async def test_without_hours_those_come_in_which_there_was_something(
    tmp_path: Path, logs_: object, said: str, there: list[str]
) -> None:
    async def listed(_: web.Request) -> web.Response:
        return web.json_response({"logs": logs_})

    (tmp_path / "log").write_bytes(log())
    app = web.Application()
    app.router.add_get("/v1/logs", listed)
    app.router.add_get(f"/v1/logs/{HOUR}", Source(tmp_path / "log").serve)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        command = ["logs", "pull", "--url", url, "--key", "k", "--to", str(tmp_path / "to")]
        done = await asyncio.to_thread(CliRunner().invoke, main, command)
    assert (done.exit_code, said in done.output) == (0, True), done.output
    assert [path.name for path in (tmp_path / "to").iterdir()] == there


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (403, {"code": "forbidden", "detail": "This API key may not."}, "This API key may not."),
        (200, {"page": []}, "is no list of logs"),
        (200, [], "is no list of logs"),
    ],
)
async def test_a_list_that_is_refused_or_none_is_said_in_a_line(
    tmp_path: Path, status: int, answer: object, said: str
) -> None:
    async def listed(_: web.Request) -> web.Response:
        return web.json_response(answer, status=status)

    app = web.Application()
    app.router.add_get("/v1/logs", listed)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        command = ["logs", "pull", "--url", url, "--key", "wrong", "--to", str(tmp_path / "to")]
        done = await asyncio.to_thread(CliRunner().invoke, main, command)
    assert (done.exit_code, done.output) == (65, f"{url}/v1/logs: {said}\n")
