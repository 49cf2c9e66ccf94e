"""SEC-12: no secret comes out of a relay that it was given, whatever goes wrong (safety §8).

One whole life of a real process at log level debug: senders, devices, pushes, webhooks, refusals of every kind, a kill, a
drain, a backup, and every command that prints. Each secret is looked for as it is, in hex, in base64 and percent-encoded, in
everything that came out except the one answer that is meant to show it.
"""

import asyncio
import base64
import json
import os
import re
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio
from scene import Answer, Scene, eventually, frame, scene

VENDOR_SECRET = "whsec_" + base64.b64encode(b"canary-of-the-vendor-account").decode()
PUSH_TOKEN = "canary-PushToken-0f3a9c77d1"
BODY, TITLE, DATA = "canary-Body-5521aa90", "canary-Title-77c1e0b2", "canary-Data-88d10fe3"
GUESSED = "rk_canaryGuessed0000_" + "Q" * 43
COOKIE, IN_QUERY, HOOK_QUERY = "canary-Cookie-19fe22c4", "canary-Query-1a2b3c4d", "canary-HookQuery-9e8d7c6b"
REFUSED, FRAME = "canary-Refused-31337abc", "canary-Frame-77aa88bb"


def forms(secret: str) -> list[bytes]:
    """A secret as it may be written: base64 at each of its three offsets."""
    raw = secret.encode()
    coded = {base64.b64encode(b"\0" * n + raw)[4:-4] for n in range(3)}
    return [raw, raw.hex().encode(), quote(secret).encode(), *(one for one in coded if len(one) >= 12)]


@dataclass
class Run:
    """What was planted, and what came out, by where it came out."""

    planted: dict[str, str] = field(default_factory=dict)
    said: dict[str, bytes] = field(default_factory=dict)

    def hits(self, *where: str, but: tuple[str, ...] = ()) -> list[str]:
        """Where a secret can be read: in outputs whose name begins with one of these; some are not looked for."""
        return [
            f"{name} in {place}"
            for name, secret in self.planted.items()
            if name not in but
            for place, said in self.said.items()
            if place.startswith(where) and any(form in said for form in forms(secret))
        ]


async def command(home: Path, environ: dict[str, str], *words: str) -> tuple[int, bytes]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "relay", *words),
        cwd=home,
        env=os.environ | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await child.communicate()
    assert child.returncode is not None
    return child.returncode, said


async def life(at: Scene, run: Run) -> None:
    """Good work first: each secret gets to where it is kept."""
    run.planted |= {"API key": at.relay.key, "vendor secret": VENDOR_SECRET, "push token": PUSH_TOKEN}
    run.planted |= {"body": BODY, "title": TITLE, "data": DATA}
    status, _ = await at.call(
        "PUT", "/v1/users/ann/devices/phone", {"addresses": [{"account": "gate", "token": PUSH_TOKEN}]}
    )
    assert status == 201
    _, minted = await at.call("POST", "/v1/users/ann/devices/phone/token")
    run.planted["device token"] = token = minted["token"]
    url = f"http://127.0.0.1:{at.receiver_wire.port}/hook?key={HOOK_QUERY}"
    status, made = await at.call("POST", "/v1/webhooks", {"url": url, "types": ["*"]})
    assert status == 201
    run.planted |= {"webhook secret": made["secret"], "webhook query": HOOK_QUERY}
    _, rotated = await at.call("POST", f"/v1/webhooks/{made['id']}/rotate", {})
    run.planted["second webhook secret"] = rotated["secret"]
    push = {"title": TITLE, "body": BODY, "data": {"k": DATA}}
    await at.send("ann", BODY, push=push)
    await at.vendors["gate"].calls_are(1)
    ws = await at.connect(token)
    while not (batch := await frame(ws, "batch"))["entries"]:
        pass
    await ws.send_json({"type": "ack", "ref": "a", "upto": batch["to"]})
    await frame(ws, "ack")
    await at.receiver.calls_are(1)
    at.receiver.answer = Answer(500, {"error": made["secret"]})  # echoes of what they know
    at.vendors["gate"].answer = Answer(500, {"error": PUSH_TOKEN})
    await ws.close()
    message = await at.send("ann", BODY, push=push)
    await at.vendors["gate"].calls_are(2)
    run.said["answer to a look-up"] = json.dumps((await at.call("GET", f"/v1/messages/{message}"))[1]).encode()


async def refusals(at: Scene, run: Run) -> None:
    """Every way to be refused, with a secret in what is refused."""
    run.planted |= {
        "guessed key": GUESSED,
        "cookie": COOKIE,
        "query": IN_QUERY,
        "refused value": REFUSED,
        "frame": FRAME,
    }
    good = {"Authorization": f"Bearer {at.relay.key}", "Content-Type": "application/json"}
    message = {"to": {"users": ["ann"]}, "body": REFUSED}
    asked: list[tuple[str, str, dict[str, str], bytes]] = [
        ("POST", "/v1/messages", {"Authorization": f"Bearer {GUESSED}"}, b"{}"),
        ("POST", "/v1/messages", {"Authorization": f"Basic {GUESSED}"}, b"{}"),
        ("POST", "/v1/messages", {"Cookie": f"session={COOKIE}"}, b"{}"),
        ("GET", f"/v1/device/sync?token={IN_QUERY}", {}, b""),
        ("GET", f"/v1/device/sync?access_token={IN_QUERY}", {}, b""),
        ("GET", f"/v1/device/sync?cursor={IN_QUERY}", {"Authorization": f"Bearer {run.planted['device token']}"}, b""),
        ("POST", "/v1/messages", good, f'{{"body": "{REFUSED}'.encode()),
        ("POST", "/v1/messages", good, f'{{"to": 1, "body": "{REFUSED}", "title": "{REFUSED}"}}'.encode()),
        ("POST", "/v1/messages", good, json.dumps(message | {"priority": REFUSED}).encode()),
        ("POST", "/v1/messages", good, json.dumps(message | {"ttl_s": REFUSED}).encode()),
        ("POST", "/v1/messages", good, json.dumps(message | {"push": {"title": [REFUSED]}}).encode()),
        ("POST", "/v1/messages", good, json.dumps(message | {"body": REFUSED * 5000}).encode()),
        ("POST", "/v1/messages", good, json.dumps(message | {"to": {"users": ["nobody"]}}).encode()),
        ("POST", "/v1/messages", good | {"Content-Type": "text/plain"}, REFUSED.encode()),
        ("POST", "/v1/webhooks", good, json.dumps({"url": f"http://u:{REFUSED}@localhost/", "types": ["*"]}).encode()),
        ("POST", "/v1/webhooks", good, json.dumps({"url": f"https://10.0.0.1/{REFUSED}", "types": ["*"]}).encode()),
        (
            "PUT",
            "/v1/users/ann/devices/phone",
            good,
            json.dumps({"addresses": [{"account": "none", "token": REFUSED}]}).encode(),
        ),
        ("GET", f"/no/such/{REFUSED}", good, b""),
    ]
    said = b""
    for method, path, headers, body in asked:
        async with at.http.request(method, at.relay.url + path, headers=headers, data=body or None) as answer:
            content = await answer.read()
            assert 400 <= answer.status < 500, (path, answer.status, content)
            said += content + repr(answer.headers).encode()
    run.said["problems"] = said
    ws = await at.connect(run.planted["device token"])
    for text in (FRAME, json.dumps({"type": "none", "x": FRAME}), json.dumps({"type": "ack", "upto": FRAME})):
        await ws.send_str(text)
        run.said[f"frame {len(run.said)}"] = json.dumps(await frame(ws, "error")).encode()
    await ws.close()


async def commands(at: Scene, run: Run) -> None:
    """Everything that the operator can have printed, of a store and of mistakes in the settings."""
    home, environ = at.relay.home, at.relay.environ
    for words in (("check",), ("providers",), ("backup", str(home / "saved"))):
        code, run.said[f"command {words[0]}"] = await command(home, environ, *words)
        assert code == 0, run.said
    wrong = environ | {"RELAY_ACCOUNTS__GATE__ALLOW_HTTP": "perhaps", "RELAY_ACCOUNTS__GATE__SECRETT": VENDOR_SECRET}
    code, run.said["command check, with a mistake"] = await command(home, wrong, "check")
    assert code == 78
    short = environ | {"RELAY_ACCOUNTS__GATE__SECRET": "whsec_" + REFUSED}
    code, run.said["command check, with a bad secret"] = await command(home, short, "check")
    assert code == 78


def files(run: Run, folder: Path, name: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "relay.keys":
            run.said[f"{name} {path.relative_to(folder)}"] = path.read_bytes()


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    tmp_path = tmp_path_factory.mktemp("relay")
    settings = {"RELAY_LOG__LEVEL": "debug", "RELAY_ACCOUNTS__GATE__SECRET": VENDOR_SECRET}
    run = Run()
    async with scene(tmp_path, settings) as at:
        ring = (tmp_path / "relay.keys").read_text()
        run.planted |= {f"ring key {n}": key for n, key in enumerate(re.findall(r"[A-Za-z0-9+/_-]{40,}={0,2}", ring))}
        assert any(name.startswith("ring key") for name in run.planted)
        await life(at, run)
        await refusals(at, run)
        async with at.http.get(at.relay.url + "/metrics") as answer:
            run.said["metrics"] = await answer.read()
        assert at.relay.child is not None
        process = Path(f"/proc/{at.relay.child.pid}")
        run.said["arguments"] = (process / "cmdline").read_bytes()
        limits = (process / "limits").read_text()
        assert re.search(r"Max core file size\s+0\s+0", limits), "a core dump would hold everything"
        await commands(at, run)
        files(run, tmp_path / "saved", "backup")
        await at.relay.end(signal.SIGKILL)
        files(run, tmp_path, "store")
        await at.relay.start()  # another log, of a recovery

        async def ready() -> bool:
            return bool((await at.call("GET", "/healthz"))[0] == 200)

        await eventually(ready)
        assert await at.relay.end(signal.SIGTERM) == 0
        code, said = await command(tmp_path, at.relay.environ, "keys", "create", "--name", "second")
        (key,) = re.findall(rb"rk_\S+", said)
        run.planted["second API key"] = key.decode()
        code, run.said["command keys list"] = await command(tmp_path, at.relay.environ, "keys", "list")
        assert code == 0
        files(run, tmp_path, "store")
        run.said["log"] = at.relay.log().encode()
        assert run.said.pop("store log")
    return run


async def test_no_secret_comes_out_in_anything_that_is_said(run: Run) -> None:
    """Log, metrics, problems, error frames, arguments, commands, and the backup's manifest."""
    assert len(run.planted) >= 12
    assert run.said["log"].count(b"\n") > 10
    where = ("log", "metrics", "problems", "frame", "arguments", "command", "answer", "backup manifest")
    assert [place for place in run.said if place.startswith("backup manifest")]
    assert run.hits(*where) == []


async def test_credentials_are_in_the_store_and_its_backup_only_sealed_or_hashed(run: Run) -> None:
    """Bodies and titles are kept as they are, so the disk is as private as they are; credentials are not."""
    assert [place for place in run.said if place.startswith("store relay.db")]
    kept_in_clear = ("body", "title", "data", "webhook query")
    assert run.hits("store", "backup", but=kept_in_clear) == []


async def test_the_search_finds_what_is_there() -> None:
    secret = {"a": "canary-of-this-test"}
    for text in (b"xx canary-of-this-test", b'{"k":"' + base64.b64encode(b"12canary-of-this-test34") + b'"}'):
        assert Run(secret, {"log": text}).hits("log") == ["a in log"]
    assert Run(secret, {"log": b"canary", "other": b"canary-of-this-test"}).hits("log") == []
