"""Users: their names, their groups, and what they want to be told of."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from relay.api.schemas.base import In, Out
from relay.inbox.preferences import is_zone
from relay.realtime.protocol import Id


class RenameBody(In):
    to: Id


class MembersBody(In):
    """Who joins and who leaves, in one step.

    `type: ultra`: any number of members, who read one timeline; a group that has become one stays one. `notify`: what those
    who join an ultra group are told of while they are away.
    """

    add: Annotated[list[Id], Field(max_length=1000)] | None = None
    remove: Annotated[list[Id], Field(max_length=1000)] | None = None
    type: Literal["ultra"] | None = None
    notify: Literal["all", "mentions"] | None = None

    @model_validator(mode="after")
    def _apart(self) -> "MembersBody":
        if not self.add and not self.remove and self.type is None:
            raise ValueError("give `add`, `remove` or `type`")
        if set(self.add or ()) & set(self.remove or ()):
            raise ValueError("nobody can join and leave at once")
        return self


class MembershipOut(Out):
    version: int
    members: int
    type: Literal["group", "ultra"]


class MemberBody(In):
    """What a member of an ultra group is told of: every message, or only those that mention it."""

    notify: Literal["all", "mentions"]


class MembersOut(Out):
    """`after`: for the next page; null: there is none."""

    members: list[str]
    after: str | None


NotifyLevel = Literal["all", "mentions", "none"]
ClockTime = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


class QuietHours(In):
    """By the user's clock on the wall; over midnight if `to` is not after `from`. `days`: those of the start."""

    from_: ClockTime = Field(alias="from")
    to: ClockTime
    days: Annotated[list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]], Field(max_length=7)] | None = None

    @model_validator(mode="after")
    def _long(self) -> "QuietHours":
        if self.from_ == self.to:
            raise ValueError("`from` and `to` must differ")
        return self


class ConversationPreference(In):
    """`muted_until`: what comes before then is not told, not later either; mentions are, unless `mute_mentions`."""

    notify: NotifyLevel | None = None
    muted_until: Annotated[str, StringConstraints(max_length=40)] | None = None
    mute_mentions: bool = False


class PreferencesBody(In):
    """What the user wants to be told of, and when not. `tz`: an IANA name; null: each device's own.

    `elsewhere_s`: while one device is in use, the others are told so much later, if nothing was read by then; null: as the
    relay's setting says.
    """

    tz: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    quiet_hours: Annotated[list[QuietHours], Field(max_length=14)] = Field([])
    urgent_breaks_quiet: bool = Field(True, description="Whether `urgent` messages are told in quiet hours.")
    notify: NotifyLevel = Field(
        "all", description="What is told where the conversation says nothing: all, what mentions the user, nothing."
    )
    elsewhere_s: int | None = Field(None, ge=0, le=60)
    conversations: Annotated[dict[Id, ConversationPreference], Field(max_length=250)] = Field({})

    @field_validator("tz")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and not is_zone(name):
            raise ValueError("must be the name of a time zone, such as Europe/Berlin")
        return name
