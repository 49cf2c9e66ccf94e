"""A real relay between its neighbours, with a wire that can be broken to each: two vendors, a webhook receiver, devices."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from relay_process import RelayProcess
from wire import Wire, wire_to

WITHIN_S = 20
ACCOUNTS = ("gate", "other")
ENVIRON = {
    "RELAY_SERVER__DRAIN_S": "3",
    "RELAY_SERVER__QUIET_S": "0",
    "RELAY_LIMITS__LAG_MS": "60000",
    "RELAY_LIMITS__SEND_RATE_PER_S": "100000",
    "RELAY_LIMITS__SEND_BURST": "100000",
    "RELAY_PUSH__DEBOUNCE_S": "0",
    "RELAY_PUSH__ACK_WAIT_S": "2",
    "RELAY_WEBHOOKS__ALLOW_HTTP": "true",
}


def account(name: str, url: str) -> dict[str, str]:
    """The settings of an account of the provider `http`."""
    own = {"PROVIDER": "http", "SECRET": "whsec_" + "c2VjcmV0" * 4, "ALLOW_HTTP": "true", "URL": url}
    return {f"RELAY_ACCOUNTS__{name.upper()}__{key}": value for key, value in own.items()}


@dataclass
class Answer:
    """What a vendor or a receiver says."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Neighbour:
    """A vendor's gateway, or a webhook receiver: takes calls, and answers as it is told to."""

    answer: Answer = field(default_factory=Answer)
    calls: list[dict[str, Any]] = field(default_factory=list)  # what came, whatever became of the answer
    taken: Counter[str] = field(
        default_factory=Counter
    )  # what was answered with 200: a push (to whom, which), else its id
    came: asyncio.Condition = field(default_factory=asyncio.Condition)
    busy: int = 0
    busiest: int = 0

    async def take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            async with self.came:
                said, told = self.answer, json.loads(body)
                self.calls.append({"id": request.headers["webhook-id"], **told})
                what = (
                    f"{told['data']['token']} {told['data']['id']}" if told["type"] == "push" else self.calls[-1]["id"]
                )
                self.taken[what] += said.status == 200
                self.came.notify_all()
            return web.json_response(said.body, status=said.status, headers=said.headers)
        finally:
            self.busy -= 1

    async def calls_are(self, count: int) -> list[dict[str, Any]]:
        """Waits until there have been so many calls."""
        async with asyncio.timeout(WITHIN_S), self.came:
            await self.came.wait_for(lambda: len(self.calls) >= count)
        return self.calls


@dataclass
class Scene:
    """The relay and what is around it; `near` is the wire between the relay and its clients."""

    relay: RelayProcess
    http: aiohttp.ClientSession
    near: Wire
    vendors: dict[str, Neighbour]
    vendor_wires: dict[str, Wire]
    receiver: Neighbour
    receiver_wire: Wire
    users: list[str] = field(default_factory=list)

    async def call(self, method: str, path: str, body: Any = None, *, token: str | None = None, **headers: str) -> Any:
        """Past the wire. Gives status and content."""
        headers["Authorization"] = f"Bearer {token or self.relay.key}"
        async with self.http.request(method, self.relay.url + path, json=body, headers=headers) as answer:
            text = await answer.read()
            return answer.status, json.loads(text) if text else None

    async def device(self, user: str, *accounts: str) -> str:
        """Registers a phone, which these accounts reach, and gives its token."""
        addresses = [{"account": name, "token": f"{user}.{name}"} for name in accounts]
        status, body = await self.call("PUT", f"/v1/users/{user}/devices/phone", {"addresses": addresses})
        assert status in {200, 201}, body
        self.users.append(user)
        status, body = await self.call("POST", f"/v1/users/{user}/devices/phone/token")
        assert status == 201, body
        return str(body["token"])

    async def send(self, user: str, body: Any = "hi", **more: Any) -> str:
        status, answer = await self.call(
            "POST", "/v1/messages", {"to": {"users": [user]}, "body": body, "push": {"title": "t"}} | more
        )
        assert status == 202, answer
        return str(answer["id"])

    async def inbox(self, token: str) -> list[Any]:
        """The bodies that the device has not acked."""
        status, page = await self.call("GET", "/v1/device/sync", token=token)
        assert status == 200, page
        return [entry["body"] for entry in page["batches"][0]["entries"]]

    async def hook(self, *types: str) -> str:
        """A webhook endpoint at the receiver."""
        body = {"url": f"http://127.0.0.1:{self.receiver_wire.port}/hook", "types": list(types) or ["*"]}
        status, answer = await self.call("POST", "/v1/webhooks", body)
        assert status == 201, answer
        return str(answer["id"])

    async def events(self, user: str, *types: str) -> list[dict[str, Any]]:
        """What the backend is told of a user, by pull."""
        return [event for event in await self.reports(*types) if event["data"].get("user") == user]

    async def reports(self, *types: str) -> list[dict[str, Any]]:
        """All that the backend can pull."""
        found: list[dict[str, Any]] = []
        only, cursor = f"&types={','.join(types)}" if types else "", ""
        while True:
            status, page = await self.call("GET", f"/v1/events?limit=200{only}{cursor}")
            assert status == 200, page
            found += page["events"]
            if not page["more"]:
                return found
            cursor = f"&cursor={page['cursor']}"

    def memory_mib(self, what: str = "VmRSS") -> float:
        """What the relay has in memory, or another line of its /proc/…/status (proc_pid_status(5))."""
        assert self.relay.child is not None
        status = Path(f"/proc/{self.relay.child.pid}/status").read_text()
        return int(status.partition(f"{what}:")[2].split()[0]) / 1024

    async def clear(self) -> None:
        """Everything is well again, and the devices so far are signed out: the next test has the relay for itself."""
        for wire in (self.near, self.receiver_wire, *self.vendor_wires.values()):
            wire.heal()
            wire.cut()
        while self.users:
            await self.call("DELETE", f"/v1/users/{self.users.pop()}/devices/phone")
        for neighbour in (self.receiver, *self.vendors.values()):
            neighbour.answer = Answer()
            neighbour.calls.clear()

    async def attempts(self, message: str) -> list[dict[str, Any]]:
        status, trace = await self.call("GET", f"/v1/messages/{message}")
        assert status == 200, trace
        return list(trace["recipients"][0]["devices"][0]["attempts"])

    async def connect(self, token: str, **hello: Any) -> aiohttp.ClientWebSocketResponse:
        """A device's socket through the wire, up to its welcome."""
        ws = await self.http.ws_connect(
            f"http://127.0.0.1:{self.near.port}/v1/device/ws",
            headers={"Authorization": f"Bearer {token}"},
            protocols=["relay.v1.json"],
        )
        await ws.send_json({"type": "hello", "ref": "1", "store": {"id": "s"}} | hello)
        await frame(ws, "welcome")
        return ws


async def frame(ws: aiohttp.ClientWebSocketResponse, type_: str) -> dict[str, Any]:
    """The next frame of this type."""
    while True:
        found = await ws.receive_json(timeout=WITHIN_S)
        if found["type"] == type_:
            return dict(found)


async def eventually(what: Callable[[], Awaitable[bool]], *, within_s: float = WITHIN_S) -> None:
    async with asyncio.timeout(within_s):
        while not await what():
            await asyncio.sleep(0.05)  # noqa: TID251 - looks again


async def _server(stack: AsyncExitStack, neighbour: Neighbour) -> Wire:
    app = web.Application()
    app.router.add_post("/{tail:.*}", neighbour.take)
    server = TestServer(app)
    await server.start_server(shutdown_timeout=0.1)
    stack.push_async_callback(server.close)
    assert server.port is not None
    return await stack.enter_async_context(wire_to(server.port))


@asynccontextmanager
async def scene(
    home: Path,
    environ: Mapping[str, str] | None = None,
    *,
    also_exempt: Sequence[str] = (),
    process: type[RelayProcess] = RelayProcess,
) -> AsyncIterator[Scene]:
    """Everything started; the relay listens."""
    async with AsyncExitStack() as stack:
        vendors = {name: Neighbour() for name in ACCOUNTS}
        wires = {name: await _server(stack, vendor) for name, vendor in vendors.items()}
        receiver = Neighbour()
        receiver_wire = await _server(stack, receiver)
        exempt = [f"127.0.0.1:{wire.port}" for wire in (*wires.values(), receiver_wire)]
        settings = ENVIRON | {"RELAY_WEBHOOKS__EXEMPT": json.dumps([*exempt, *also_exempt])}
        for name, wire in wires.items():
            settings |= account(name, f"http://127.0.0.1:{wire.port}/")
        relay = process(home, settings | dict(environ or {}))
        stack.push_async_callback(relay.aclose)
        await relay.start()
        near = await stack.enter_async_context(wire_to(relay.port))
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        yield Scene(relay, http, near, vendors, wires, receiver, receiver_wire)


@asynccontextmanager
async def beside(at: Scene, home: Path) -> AsyncIterator[Scene]:
    """The same scene around one more node, on the same store and with the same keys; with a wire of its own."""
    home.mkdir()
    node = RelayProcess(home, at.relay.environ | {"RELAY_KEYS__FILE": str(at.relay.home / "relay.keys")})
    try:
        await node.start()
        node.key = at.relay.key
        async with wire_to(node.port) as near:
            yield replace(at, relay=node, near=near)
    finally:
        await node.aclose()
