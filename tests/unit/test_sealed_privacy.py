"""Privacy "sealed": a vendor learns that there is something and how it is to be brought, and the device learns all."""

import base64
import json
from dataclasses import fields, replace
from typing import Any

import http_ece
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from inbox_rows_made import NOW, device, entry, job
from msgspec import structs

from providers.contract import Capabilities
from relay.client import SealKeys as AppKeys
from relay.client import unseal
from relay.model import Address, DeviceKey, Notification, Policy
from relay.push.attempts import Attempt
from relay.push.notes import Form, Note
from relay.push.payload import push_of, says_the_same_to_all
from relay.push.planner import Send, plan
from relay.push.sealing import KeyInvalid, SealKeys, encrypted
from relay.push.situation import AccountView, Item, Privacy, SharedNews, Situation

PHONE = derive_private_key(7, SECP256R1())
POINT = PHONE.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
AUTH = bytes(range(16))
KEYS = SealKeys(POINT, AUTH)
SEED = bytes(32)
OPEN = ("sound", "badge", "channel")  # what a vendor needs to know of it
CARRIES = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400, sealed=True)
HOUR = 3_600_000


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def opened(sealed: str) -> dict[str, Any]:
    """By another's implementation of RFC 8291."""
    body = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
    return dict(json.loads(http_ece.decrypt(body, private_key=PHONE, auth_secret=AUTH)))


def address(**more: Any) -> Address:
    values: dict[str, Any] = {
        "preference": 0,
        "account": "v",
        "kind": "token",
        "token_sealed": b"s",
        "token_hash": b"h",
        "registered_ms": 0,
        "state": "active",
        "shared": 0,
        "keys_sealed": b"k",
    }
    return Address(**(values | more))


WORDS = Notification(title="Ann", body="hello")


def planned(
    count: int = 1, *, to: Address, can: Capabilities = CARRIES, shared: bool = False, push: Notification = WORDS
) -> Send:
    items = tuple(
        Item(
            entry=entry(seq, accepted_ms=NOW - 60_000, expires_ms=NOW + HOUR),
            push=push,
            priority="normal",
            collapse_key=None,
        )
        for seq in range(1, count + 1)
    )
    news = SharedNews(conversation_id="g", items=items, count=count, since_ms=NOW - 60_000, upto_seq=count)
    found = plan(
        Situation(
            now_ms=NOW,
            device=device(),
            job=job(),
            untold=() if shared else items,
            untold_count=0 if shared else count,
            told=(),
            shared=(news,) if shared else (),
            upto_seq=0 if shared else count,
            addresses=(to,),
            accounts={"v": AccountView(capabilities=can, privacy=Privacy.SEALED)},
            policy=Policy(),
        )
    )
    assert isinstance(found, Send)
    return found


def attempt(send: Send) -> Attempt:
    return Attempt(
        device=DeviceKey("app", "ann", "phone"),
        epoch="e" * 32,
        head_seq=1,
        token=1,
        knock=False,
        tries=0,
        retry=False,
        lost=0,
        started_ms=NOW,
        claim_until_ms=NOW,
        send=send,
        mended=0,
    )


@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("shared", [False, True])
def test_each_notification_is_sealed_for_a_device_that_has_keys(count: int, *, shared: bool) -> None:
    send = planned(count, to=address(), shared=shared)
    assert send.form != Form.WAKE
    assert all(note.sealed and note.left_out == () for note in send.notes)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("to", "can", "lacks"),
    [
        (address(keys_sealed=None), CARRIES, "seal_keys"),
        (address(), replace(CARRIES, sealed=False), "sealed"),
    ],
)
def test_else_it_is_ids_alone_and_the_trace_says_why(
    to: Address, can: Capabilities, lacks: str, *, shared: bool
) -> None:
    (note,) = planned(to=to, can=can, shared=shared).notes
    assert (note.shows, note.sealed, note.left_out) == (None, False, (lacks,))


@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("shared", [False, True])
def test_what_shows_nothing_has_no_placeholder_either(count: int, *, shared: bool) -> None:
    """An iPhone would show "New message" for the app's data alone; the ids bring the app to it."""
    notes = planned(count, to=address(), shared=shared, push=Notification(data={"k": "v"})).notes
    assert {(note.shows, note.sealed) for note in notes} == {(None, False)}
    if (count, shared) == (1, False):
        assert notes[0].left_out == ("data",)


def test_where_all_is_encrypted_for_the_device_nothing_need_be_sealed() -> None:
    (note,) = planned(to=address(keys_sealed=None), can=replace(CARRIES, encrypted=True, sealed=False)).notes
    assert (note.shows, note.sealed) == (Notification(title="Ann", body="hello"), False)


SECRET = st.text("🔒ßé", min_size=4, max_size=40)  # found nowhere by chance
SHOWN = st.builds(
    Notification,
    title=SECRET,
    body=SECRET,
    title_loc_key=st.none() | SECRET,
    title_loc_args=st.lists(SECRET, max_size=3).map(tuple),
    image=st.none() | SECRET,
    sound=st.none() | st.just("bell"),
    badge=st.none() | st.integers(0, 99),
    channel=st.none() | st.just("chat"),
    thread=st.none() | SECRET,
    click=st.none() | SECRET,
    data=st.dictionaries(SECRET, SECRET, max_size=3),
    overrides=st.fixed_dictionaries({"v": st.dictionaries(SECRET, SECRET, max_size=2)}),
)


@settings(max_examples=60, deadline=None)
@given(shown=SHOWN, count=st.integers(1, 5))
def test_the_vendor_sees_nothing_of_it_and_the_device_all(shown: Notification, count: int) -> None:
    note = Note(
        push_id="m-1", collapse_key="m-1", shows=shown, urgent=True, ttl_s=60, ids=("m-1",), count=count, sealed=True
    )
    one = attempt(structs.replace(planned(to=address()), notes=(note,)))
    push = push_of(one, note, "token", provider="v", keys=KEYS, seed=SEED)
    seen = {field.name: getattr(push, field.name) for field in fields(push)}
    assert not set("🔒ßé") & set(str(seen))
    assert push.mutable
    assert push.title
    assert not says_the_same_to_all(one, push)
    assert push.sealed is not None
    found = opened(push.sealed)
    given = {name: value for name, value in vars_of(shown).items() if name != "overrides"}
    assert found == {"id": "m-1"} | given
    for name in OPEN:
        assert seen[name] == getattr(shown, name)


def vars_of(shown: Notification) -> dict[str, Any]:
    """What is set, as JSON has it."""
    bare = Notification()
    found = structs.asdict(shown)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if value != getattr(bare, name)
    }


def test_texts_of_about_a_length_look_alike_and_no_two_are_sealed_by_the_same_key() -> None:
    first, second = (encrypted(Notification(title=title), "m-1", KEYS, SEED) for title in ("yes", "no, not at all"))
    assert len(first) == len(second)
    assert first[:100] != second[:100]  # salt and the sender's key
    assert encrypted(Notification(title="yes"), "m-1", KEYS, SEED) == first
    assert encrypted(Notification(title="yes"), "m-2", KEYS, SEED)[:100] != first[:100]


def test_the_client_s_own_helper_opens_it_and_nothing_else() -> None:
    keys = AppKeys.new()
    sealed = encrypted(Notification(title="Ann", body="¡hola!"), "m-1", SealKeys.read(**keys.seal), SEED)
    assert unseal(sealed, keys) == {"id": "m-1", "title": "Ann", "body": "¡hola!"}
    for wrong in (sealed[:-4] + "AAAA", sealed[:40], "", "ä"):
        with pytest.raises(ValueError, match="not sealed for these keys"):
            unseal(wrong, keys)
    with pytest.raises(ValueError, match="not sealed for these keys"):
        unseal(sealed, AppKeys.new())


@pytest.mark.parametrize(
    ("p256dh", "auth", "field"),
    [
        ("A" * 87, base64url(AUTH), "p256dh"),
        (base64url(POINT)[:-4], base64url(AUTH), "p256dh"),
        (base64url(POINT), base64url(AUTH[:-1]), "auth"),
        (base64url(POINT), "ä", "auth"),
    ],
)
def test_what_are_no_keys_is_said_of_the_field(p256dh: str, auth: str, field: str) -> None:
    with pytest.raises(KeyInvalid) as found:
        SealKeys.read(p256dh, auth)
    assert found.value.field == field
    assert SealKeys.kept(KEYS.text) == KEYS
