"""A push in OPPO's words: vendor sheet `oppo` §3 (request), §6 (classes) and §7 (mapping). Pure."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from providers.app_message import app_data, cut, cuts, named, number_for, once_key, present, texts
from providers.contract import Push
from providers.fields import Rules, companions, flag, matching, merged, mistakes, one_of, text, whole
from providers.http import json_body
from providers.settings import plain

__all__ = [
    "PARAMETERS_MAX",
    "TITLE_CHARS_MAX",
    "TTL_S_MAX",
    "OppoClass",
    "losses",
    "notification_of",
    "override_mistakes",
]

PARAMETERS_MAX = 4000  # of `action_parameters`; the sheet says neither characters nor bytes, so the stricter
TITLE_CHARS_MAX = 50
SHORT_CHARS_MAX = 50  # style 1; another copy of the document says 200
LONG_CHARS_MAX = 128  # style 2; the vendor's SDK says 200
TTL_S_MAX = 864_000  # ten days; an older document says three
NOTIFY_ID_BELOW = 2**31
URL_CHARS_MAX = 2000
ACTION_CHARS_MAX = 500
WEB_PAGE = 2  # click_action_type
BADGE_SETS = 0  # badge_operation_type; 1 adds

REQUIRED = ("title", "content", "channel_id")  # without a channel Android 9 and later show nothing
IM = "IM"  # the category that takes a template (else code 54)
GOES_TO = {  # what a tap needs to know, by click_action_type
    **dict.fromkeys((1, 4), ("click_action_activity",)),
    **dict.fromkeys((2, 5), ("click_action_url",)),
}

OVERRIDES: Rules = {
    "app_message_id": text(64, chars_min=1),
    "style": one_of(1, 2),  # pictures (3) are for broadcasts
    "title": text(TITLE_CHARS_MAX, chars_min=1),
    "sub_title": text(10),
    "content": text(LONG_CHARS_MAX, chars_min=1),
    "click_action_type": one_of(0, 1, 2, 4, 5),
    "click_action_activity": text(ACTION_CHARS_MAX, chars_min=1),
    "click_action_url": text(URL_CHARS_MAX, chars_min=1),
    "action_parameters": text(PARAMETERS_MAX),
    "off_line": flag,
    "off_line_ttl": whole(1, TTL_S_MAX),
    "show_ttl": whole(0, 86_400),
    "show_time_type": one_of(0, 1),
    "show_start_time": whole(0, 2**53),
    "show_end_time": whole(0, 2**53),
    "network_type": one_of(0, 1),
    "channel_id": text(128, chars_min=1),
    "notify_id": whole(0, NOTIFY_ID_BELOW - 1),
    "category": matching(r"[A-Z][A-Z0-9_]{0,31}", "a category of OPPO in capitals"),
    "notify_level": one_of(1, 2, 16),
    "private_msg_template_id": text(128, chars_min=1),
    "private_title_parameters": text(PARAMETERS_MAX),
    "private_content_parameters": text(PARAMETERS_MAX),
    "badge_operation_type": one_of(0, 1),
    "badge_message_count": whole(0, 9999),
}


class OppoClass(BaseModel):
    """What becomes of the pushes of one channel: OPPO's names for it, from its console."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    channel_id: Annotated[str, plain(128)]  # without one Android 9 and later show nothing
    category: (
        Annotated[str, Field(pattern="^[A-Z][A-Z0-9_]{0,31}$", description="a category in capitals, like IM")] | None
    ) = None
    template_id: Annotated[str, plain(128)] | None = None
    title_parameter: Annotated[str, Field(min_length=1, max_length=64)] | None = (
        None  # what the template calls the title
    )
    body_parameter: Annotated[str, Field(min_length=1, max_length=64)] | None = None

    @model_validator(mode="after")
    def _agrees(self) -> "OppoClass":
        if self.category == IM and self.template_id is None:
            raise ValueError("template_id: OPPO takes the category IM with an approved template only (code 54)")
        if self.template_id is not None and self.category is None:
            raise ValueError("category: a template belongs to a category")
        if self.template_id is None and (self.title_parameter or self.body_parameter):
            raise ValueError("template_id: parameters belong to a template")
        return self


def override_mistakes(overrides: Mapping[str, Any]) -> list[str]:
    """Every mistake in overrides for OPPO's `notification`, each a sentence."""
    found = list(mistakes(overrides, OVERRIDES, required=REQUIRED))
    found += companions(overrides, "click_action_type", GOES_TO)
    if overrides.get("private_msg_template_id", "") is None and overrides.get("category", IM) == IM:
        found.append(f"private_msg_template_id may not be taken away without another category than {IM}.")
    objects = ("action_parameters", "private_title_parameters", "private_content_parameters")
    given = ((field, overrides.get(field)) for field in objects)
    garbled = (field for field, value in given if isinstance(value, str) and not _is_json_object(value))
    found += [f"{field} must be a JSON object, as text." for field in garbled]
    if not found and overrides.get("show_time_type") == 1 and not _can_show(overrides):
        found.append("show_time_type 1 takes show_start_time and, later, show_end_time beside it.")
    content = overrides.get("content")
    if overrides.get("style") == 1 and isinstance(content, str) and len(content) > SHORT_CHARS_MAX:
        found.append(
            f"content must have at most {SHORT_CHARS_MAX} characters with style 1; style 2 takes {LONG_CHARS_MAX}."
        )
    return found


def _can_show(timed: Mapping[str, Any]) -> bool:
    begins_ms, ends_ms = timed.get("show_start_time"), timed.get("show_end_time")
    return begins_ms is not None and ends_ms is not None and begins_ms < ends_ms


def notification_of(push: Push, class_: OppoClass, *, wake_text: str, strong: bool, now_s: float) -> dict[str, Any]:
    """OPPO's `notification`. `wake_text` stands in for a text that is not there; `strong`: OPPO granted level 16."""
    title, body = texts(push, blank=wake_text)
    short = len(body) <= SHORT_CHARS_MAX
    title, body = cut(title, TITLE_CHARS_MAX), cut(body, SHORT_CHARS_MAX if short else LONG_CHARS_MAX)
    level = 1 if push.silent or not push.urgent else 16 if strong else 2
    waits = push.ttl_s > 0
    click = _click(push.click)
    # OPPO appends the parameters to a web page's address: what is the app's is no business of that page.
    data = None if click["click_action_type"] == WEB_PAGE else json_body(app_data(push)).decode()
    fields = {
        # Not a key of the id alone: OPPO shows the same one once, and a summary that grew keeps its id.
        "app_message_id": once_key(push, now_s=now_s, chars=32),
        "style": 1 if short else 2,
        "title": title,
        "content": body,
        **click,
        "action_parameters": data,  # text, not an object
        "off_line": waits,
        "off_line_ttl": min(max(int(push.ttl_s), 1), TTL_S_MAX) if waits else None,
        "channel_id": class_.channel_id,
        "category": class_.category,
        "notify_level": level if class_.category else None,  # without a category: code 67
        "private_msg_template_id": class_.template_id,
        "notify_id": number_for(push.collapse_key or push.id, NOTIFY_ID_BELOW),
        "badge_operation_type": None if push.badge is None else BADGE_SETS,
        "badge_message_count": push.badge,
    }
    return _overridden(present(fields), push.overrides, class_)


def losses(push: Push, class_: OppoClass) -> list[str]:
    """What of it OPPO will not have: see `Provider.losses`."""
    web = _click(push.click)["click_action_type"] == WEB_PAGE
    return [
        *cuts(push, title_max=TITLE_CHARS_MAX, body_max=LONG_CHARS_MAX),
        *named(
            data=web and bool(push.data),
            relay=web and bool(push.relay),
            category=_lacks_template(push.overrides, class_),
        ),
    ]


def _overridden(said: Mapping[str, Any], overrides: Mapping[str, Any], class_: OppoClass) -> dict[str, Any]:
    """`overrides` laid over our notification, whose other fields follow: OPPO refuses those that do not agree (sheet §9), and
    shows a template's parameters in place of title and content (§6)."""
    left = {"category"} if _lacks_template(overrides, class_) else set()
    result = merged(said, {name: value for name, value in overrides.items() if name not in left})
    content = result.get("content")
    if isinstance(content, str) and "style" not in overrides:
        result["style"] = 1 if len(content) <= SHORT_CHARS_MAX else 2
    elif isinstance(content, str) and "content" not in overrides and result.get("style", 1) == 1:
        result["content"] = cut(content, SHORT_CHARS_MAX)
    if "category" not in result:
        result.pop("notify_level", None)  # code 67
    if "badge_message_count" not in result:
        result.pop("badge_operation_type", None)
    else:
        result.setdefault("badge_operation_type", BADGE_SETS)
    if "private_msg_template_id" in result:
        ours = {
            "private_title_parameters": _parameter(class_.title_parameter, result["title"]),
            "private_content_parameters": _parameter(class_.body_parameter, result["content"]),
        }
        result |= present({name: value for name, value in ours.items() if name not in overrides})
    return result


def _lacks_template(overrides: Mapping[str, Any], class_: OppoClass) -> bool:
    """Whether it is to be of the category IM by an override that brings no template, while its class is of another."""
    return overrides.get("category") == IM != class_.category and "private_msg_template_id" not in overrides


def _click(click: str | None) -> dict[str, Any]:
    """What a tap does. Too long for OPPO: it opens the app, which finds it in its data."""
    if click and ":" in click and len(click) <= URL_CHARS_MAX:
        return {"click_action_type": WEB_PAGE if _is_web(click) else 5, "click_action_url": click}
    if click and ":" not in click and len(click) <= ACTION_CHARS_MAX:
        return {"click_action_type": 1, "click_action_activity": click}  # an action of the app's manifest
    return {"click_action_type": 0}


def _is_web(click: str) -> bool:
    return click.startswith(("http://", "https://"))


def _parameter(name: str | None, value: str) -> str | None:
    return None if name is None else json_body({name: value}).decode()


def _is_json_object(given: str) -> bool:
    try:
        return isinstance(json.loads(given), dict)
    except (ValueError, RecursionError):
        return False
