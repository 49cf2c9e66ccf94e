"""The backend's client: send, devices, tokens, presence, events. Repeats what may be repeated, and nothing else.

Every send carries an idempotency key, made once per call: however often it has to be repeated, the relay stores it once.
"""

import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from uuid_utils import uuid7

from relay.client import http
from relay.client.http import Problem, Unreachable, base_of
from relay.clock import Clock, SystemClock
from relay.ids import Rng, system_rng

TRY_FOR_S = 60.0
FIRST_S, LIMIT_S = 0.5, 15.0
BATCH_MAX = 500
Json = dict[str, Any]


class Backend:
    """A relay as its backend sees it: `async with Backend(url, key) as backend: await backend.send("ann", "hello")`.

    Every method raises Problem when the relay refuses, and Unreachable when it could not be asked for `try_for_s`.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        try_for_s: float = TRY_FOR_S,
        session: aiohttp.ClientSession | None = None,
        clock: Clock | None = None,
        rng: Rng | None = None,
    ) -> None:
        """`key` is an API key (rk_…). A given `session` stays the caller's to close; as aiohttp's do, it repeats some calls by
        itself, unless `relay.client.http.once` is among its middlewares. Raises ValueError for what is no URL."""
        self._url = base_of(url)
        self._key = key
        self._try_for_ms = try_for_s * 1000
        self._own_session = session is None
        self._session = session
        self._clock: Clock = clock or SystemClock()
        self._rng: random.Random = rng or system_rng()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._own_session and self._session is not None:
            await self._session.close()
            self._session = None

    # --- messages ---

    async def send(self, users: str | Sequence[str], body: Any, *, key: str | None = None, **fields: Any) -> Json:
        """Sends one message; the answer means that it is on disk. `fields` are those of `POST /v1/messages`.

        Give `key` when your own process may die before it has the answer, and use the same one after that.
        """
        to = {"users": [users] if isinstance(users, str) else list(users)}
        message = {"to": to, "body": body} | fields
        return await self._call("POST", "/v1/messages", message, has="id", key=key or new_key())

    async def send_to_group(self, group: str, body: Any, *, key: str | None = None, **fields: Any) -> Json:
        """As `send`, to everybody who is in the group; `sender` is left out, and has a copy on other devices."""
        message = {"to": {"group": group}, "body": body} | fields
        return await self._call("POST", "/v1/messages", message, has="id", key=key or new_key())

    async def send_batch(self, messages: Iterable[Mapping[str, Any]]) -> list[Json]:
        """Sends many messages, 500 a request; gives a result per message, in their order. Those without `key` get one.

        When it raises, those of earlier requests have been sent: give each its `key`, and repeat it with the same ones.
        """
        items = [{"key": new_key()} | dict(one) for one in messages]
        results: list[Json] = []
        for start in range(0, len(items), BATCH_MAX):
            some = {"messages": items[start : start + BATCH_MAX]}
            answer = await self._call("POST", "/v1/messages/batch", some, has="results")
            results += [one | {"index": start + one["index"]} for one in answer["results"]]
        return results

    async def message(self, id_: str) -> Json:
        """A message's state for each device, and every attempt to tell."""
        return await self._call("GET", f"/v1/messages/{_safe(id_)}", has="recipients")

    async def cancel(self, id_: str) -> Json:
        """Takes a message back: `status` is `cancelled` where nobody had it yet, else `recalled`."""
        try:
            return await self._call("DELETE", f"/v1/messages/{_safe(id_)}", has="id")
        except Problem as problem:
            if not (problem.of_a_repeat and problem.code == "state_conflict"):
                raise
            status = await self._taken_back(id_)
            if status is None:
                raise
            return {"id": id_, "status": status}

    async def _taken_back(self, id_: str) -> str | None:
        """Whether a message is `cancelled` or `recalled`; None: it is neither, or nobody may say so to this key."""
        try:
            trace = await self.message(id_)
        except Problem:
            return None
        found = {one.get("code") or one.get("state") for one in [*trace["recipients"], trace["timeline"] or {}]}
        return next((status for status in ("recalled", "cancelled") if status in found), None)

    # --- groups ---

    async def change_group(
        self, group: str, *, add: Sequence[str] = (), remove: Sequence[str] = (), **fields: Any
    ) -> Json:
        """Adds and removes members; makes the group with the first. `fields`: type (`ultra`), notify."""
        body: Json = {"add": list(add), "remove": list(remove)} | fields
        said = {name: value for name, value in body.items() if value != []}
        return await self._call("PUT", _group(group), said, has="members")

    async def members(self, group: str) -> AsyncIterator[str]:
        """Who is in a group."""
        params: dict[str, str] = {}
        while True:
            page = await self._call("GET", _group(group), has="members", params=params)
            for user in page["members"]:
                yield user
            if page["after"] is None:
                return
            params = {"after": page["after"]}

    # --- devices and tokens ---

    async def put_device(self, user: str, device: str, **facts: Any) -> Json:
        """Registers a device, or changes what is known of it: platform, addresses, app_version, locale, tz, …"""
        return await self._call("PUT", _device(user, device), facts, has="device")

    async def device(self, user: str, device: str) -> Json:
        return await self._call("GET", _device(user, device), has="device")

    async def delete_device(self, user: str, device: str) -> None:
        """Signs a device out."""
        await self._delete(_device(user, device))

    async def mint_token(self, user: str, device: str) -> str:
        """A device's credential; pass it on to the app. Not repeated by itself: a second try makes a second token."""
        answer = await self._once("POST", f"{_device(user, device)}/token", has="token")
        return str(answer["token"])

    async def revoke_tokens(self, user: str, device: str | None = None) -> None:
        """Ends all tokens of a device, or of all devices of a user."""
        path = f"/v1/users/{_safe(user)}/tokens" if device is None else f"{_device(user, device)}/token"
        await self._call("DELETE", path, has=None)

    # --- presence ---

    async def presence(self, user: str) -> Json:
        """Which of a user's devices are online."""
        return await self._call("GET", f"/v1/users/{_safe(user)}/presence", has="online")

    async def online(self, users: Sequence[str]) -> dict[str, bool]:
        """Who of up to 500 users has a device online."""
        answer = await self._call("POST", "/v1/presence/query", {"users": list(users)}, has="users")
        return {one["user"]: one["online"] for one in answer["users"]}

    async def report_presence(self, devices: Sequence[Mapping[str, Any]], *, lease_s: float | None = None) -> Json:
        """Heartbeats and states of up to 500 devices whose sockets you own."""
        body: Json = {"devices": [dict(one) for one in devices]}
        said = body if lease_s is None else body | {"lease_s": lease_s}
        return await self._call("POST", "/v1/presence", said, has="results")

    # --- webhooks ---

    async def create_webhook(self, url: str, *, types: Sequence[str] = ("*",), **fields: Any) -> Json:
        """Has events told to this URL; the answer's `secret`, shown this once, is what `verify_webhook` checks with.

        Not repeated by itself: a second try makes a second endpoint.
        """
        body = {"url": url, "types": list(types)} | fields
        return await self._once("POST", "/v1/webhooks", body, has="secret")

    async def webhooks(self) -> list[Json]:
        answer = await self._call("GET", "/v1/webhooks", has="endpoints")
        return list(answer["endpoints"])

    async def change_webhook(self, endpoint: str, **fields: Any) -> Json:
        """`fields`: url, types, description, headers, enabled; what is left out stays as it is."""
        return await self._call("PATCH", _endpoint(endpoint), fields, has="id")

    async def delete_webhook(self, endpoint: str) -> None:
        await self._delete(_endpoint(endpoint))

    async def rotate_webhook(self, endpoint: str, *, overlap_s: int = 86_400) -> Json:
        """Gives a new secret; the old one goes on signing beside it for `overlap_s`. Not repeated by itself."""
        return await self._once("POST", f"{_endpoint(endpoint)}/rotate", {"overlap_s": overlap_s}, has="secret")

    async def replay_webhook(self, endpoint: str, **which: Any) -> Json:
        """Sends events again: some by id (`events`), or those of a time (`since`, `until`, `undelivered_only`, `cursor`)."""
        return await self._call("POST", f"{_endpoint(endpoint)}/replay", which, has="count")

    # --- events ---

    async def events(
        self, cursor: str | None = None, *, types: Sequence[str] = (), poll_s: float | None = None
    ) -> AsyncIterator[tuple[Json, str]]:
        """Events in order, each with the cursor to go on from once its page is done. With `poll_s`, for ever."""
        while True:
            params = {"limit": "200"} | ({"cursor": cursor} if cursor else {})
            if types:
                params["types"] = ",".join(types)
            answer = await self._call("GET", "/v1/events", has="events", params=params)
            for event in answer["events"]:
                yield event, answer["cursor"]
            cursor = answer["cursor"]
            if not answer["more"]:
                if poll_s is None:
                    return
                await self._clock.sleep(poll_s)

    # --- calls ---

    async def _delete(self, path: str) -> None:
        try:
            await self._call("DELETE", path, has=None)
        except Problem as problem:
            if not (problem.of_a_repeat and problem.status == 404):  # else an earlier try has done it
                raise

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        has: str | None,
        key: str | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Json:
        """Repeats until there is an answer that repeating won't change, with full jitter, as long as `try_for_s`."""
        until_ms = self._clock.monotonic_ms() + self._try_for_ms
        tries = 0
        unknown = False  # whether a try has been done whose answer was lost
        while True:
            try:
                return await self._once(method, path, body, has=has, key=key, params=params)
            except Problem as problem:
                problem.of_a_repeat = unknown
                if not problem.retryable:
                    raise
                error: Problem | Unreachable = problem
                asked_s = problem.retry_after_s or 0
                unknown = unknown or not problem.of_the_relay or problem.code == "commit_unknown"
            except Unreachable as unreachable:
                error, asked_s, unknown = unreachable, 0, True
            wait_s = max(asked_s, self._rng.uniform(0, min(LIMIT_S, FIRST_S * 2 ** min(tries, 10))))
            tries += 1
            if self._clock.monotonic_ms() + wait_s * 1000 > until_ms:
                raise error
            await self._clock.sleep(wait_s)

    async def _once(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        has: str | None,
        key: str | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Json:
        """One try. `has`: a member that the relay's answer has, so that nothing else is taken for it; None: it has no body."""
        if self._session is None:
            self._session = aiohttp.ClientSession(middlewares=(http.once,))
        answer = await http.call(
            self._session,
            method,
            self._url + path,
            credential=self._key,
            body=body,
            params=params,
            headers={} if key is None else {"Idempotency-Key": key},
        )
        if answer.status == 204 and has is None:
            return {}
        read = answer.json
        if has is None or has not in read:
            raise Unreachable(f"{method} {path}: the answer is not the relay's")
        return read


def new_key() -> str:
    """An idempotency key: a UUIDv7, from which the relay always makes the same message id."""
    return str(uuid7())


def _safe(text: str) -> str:
    return quote(text, safe="")


def _endpoint(endpoint: str) -> str:
    return f"/v1/webhooks/{_safe(endpoint)}"


def _group(group: str) -> str:
    return f"/v1/groups/{_safe(group)}/members"


def _device(user: str, device: str) -> str:
    return f"/v1/users/{_safe(user)}/devices/{_safe(device)}"
