"""What one call to a vendor carries: a notification, and the relay's object beside it (protocol 7.6). Pure."""

from dataclasses import replace

from providers.contract import Push
from relay.push.attempts import Attempt
from relay.push.notes import Form, Note, device_hint
from relay.push.sealing import SealKeys, cover, encrypted

OWN_TO_A_DEVICE = {"device", "user_hint", "epoch8", "head"}  # in the relay's object


def push_of(
    attempt: Attempt, note: Note, token: str, *, provider: str, keys: SealKeys | None = None, seed: bytes = b""
) -> Push:
    """The notification in a vendor's hands, with the relay's own object in it. `provider`: whose overrides count.

    `keys`: the device's, for a note that the vendor is not to see; `seed`: this process's secret, see `encrypted`.
    """
    shows, sealed = note.shows, None
    if shows is not None and note.sealed:
        assert keys is not None
        shows, sealed = cover(shows, note.count), encrypted(shows, note.push_id, keys, seed)
    relay = {
        "v": 1,
        "app": attempt.device.app_id,
        "device": attempt.device.device_id,
        "user_hint": device_hint(attempt.device.user_id),
        "epoch8": attempt.epoch[:16],
        "head": attempt.head_seq,
        "ids": list(note.ids),
        "n": note.count,
    }
    if shows is None:
        return Push(
            id=note.push_id,
            token=token,
            kind=attempt.send.address.kind,
            urgent=note.urgent,
            ttl_s=note.ttl_s,
            collapse_key=note.collapse_key,
            again=note.again,
            relay=relay,
        )
    return Push(
        id=note.push_id,
        token=token,
        kind=attempt.send.address.kind,
        title=shows.title,
        body=shows.body,
        title_loc_key=shows.title_loc_key,
        title_loc_args=shows.title_loc_args,
        body_loc_key=shows.body_loc_key,
        body_loc_args=shows.body_loc_args,
        image=shows.image,
        data=shows.data,
        badge=shows.badge,
        sound=shows.sound,
        channel=shows.channel,
        thread=shows.thread,
        click=shows.click,
        mutable=shows.mutable,
        sealed=sealed,
        urgent=note.urgent,
        ttl_s=note.ttl_s,
        collapse_key=note.collapse_key,
        again=note.again,
        overrides=shows.overrides.get(provider, {}),
        relay=relay,
    )


def says_the_same_to_all(attempt: Attempt, push: Push) -> bool:
    """Whether it is a message as every device shows it. Summaries and wake-ups are the device's own; so are messages
    of which the app is to decide whether they are for whoever uses it now."""
    return attempt.send.form == Form.EACH and not push.silent and not push.mutable


def to_all(push: Push) -> Push:
    """The same push, without what differs between devices."""
    return replace(push, relay={name: value for name, value in push.relay.items() if name not in OWN_TO_A_DEVICE})
