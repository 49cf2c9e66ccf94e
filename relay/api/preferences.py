"""The backend's calls about what users want to be told of."""

from dataclasses import dataclass

from relay.api.routes import Answer, Call
from relay.api.schemas.users import ConversationPreference, PreferencesBody, QuietHours
from relay.clock import from_rfc3339, rfc3339
from relay.errors import not_an_instant
from relay.inbox.preferences import DAYS, Conversation, Level, Preferences, Quiet, clock_text, minutes
from relay.inbox.service import InboxService
from relay.model import UserKey


@dataclass(slots=True, kw_only=True)
class PreferencesApi:
    inbox: InboxService

    async def get(self, call: Call) -> Answer:
        return _answer(await self.inbox.reader.preferences(_user(call)))

    async def put(self, call: Call) -> Answer:
        wanted = read(call.body)
        await self.inbox.set_preferences(_user(call), wanted)
        return _answer(wanted)

    async def delete(self, call: Call) -> Answer:
        await self.inbox.set_preferences(_user(call), None)
        return Answer(204, None)


def _answer(one: Preferences) -> Answer:
    return Answer(200, printed(one).model_dump(by_alias=True))


def _user(call: Call) -> UserKey:
    return UserKey(call.principal.app_id, call.path["user"])


def read(body: PreferencesBody) -> Preferences:
    """Raises Invalid."""
    return Preferences(
        zone=body.tz,
        quiet=tuple(
            Quiet(minutes(one.from_), minutes(one.to), tuple(sorted({DAYS.index(day) for day in one.days or ()})))
            for one in body.quiet_hours
        ),
        urgent_breaks=body.urgent_breaks_quiet,
        level=Level(body.notify),
        elsewhere_ms=None if body.elsewhere_s is None else body.elsewhere_s * 1000,
        conversations={
            name: Conversation(
                level=None if one.notify is None else Level(one.notify),
                muted_until_ms=_until(name, one.muted_until),
                mute_mentions=one.mute_mentions,
            )
            for name, one in body.conversations.items()
        },
    )


def _until(name: str, text: str | None) -> int:
    if text is None:
        return 0
    try:
        return from_rfc3339(text)
    except (ValueError, OverflowError):
        escaped = name.replace("~", "~0").replace("/", "~1")
        raise not_an_instant(f"/conversations/{escaped}/muted_until") from None


def printed(one: Preferences) -> PreferencesBody:
    return PreferencesBody(
        tz=one.zone,
        quiet_hours=[
            QuietHours.model_validate(
                {
                    "from": clock_text(quiet.start_min),
                    "to": clock_text(quiet.end_min),
                    "days": [DAYS[day] for day in quiet.days] or None,
                }
            )
            for quiet in one.quiet
        ],
        urgent_breaks_quiet=one.urgent_breaks,
        notify=one.level.value,
        elsewhere_s=None if one.elsewhere_ms is None else one.elsewhere_ms // 1000,
        conversations={
            name: ConversationPreference(
                notify=None if own.level is None else own.level.value,
                muted_until=rfc3339(own.muted_until_ms) if own.muted_until_ms else None,
                mute_mentions=own.mute_mentions,
            )
            for name, own in one.conversations.items()
        },
    )
