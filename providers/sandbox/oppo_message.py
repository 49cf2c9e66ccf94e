"""What a message must hold for OPPO to take it, and what a phone makes of it. Source: vendor sheet oppo.md §3, §5, §6.

The account's channels are `im`, of communication and service, and `news`, of content and marketing.
"""

from typing import Any

from providers.sandbox.checks import Json, read_json
from providers.sandbox.coded import Fields, Wrong, among, boolean, chars, like, look, number

CHAT_CHANNEL, NEWS_CHANNEL = "im", "news"
TEMPLATE = "tpl-im"  # `{title}` and `{body}` as they are
TARGETS_MAX = 1000
NEWS_SHOWN_S = 12 * 3600  # how long it may stay; what is private, a day (§3)
CONTENT_CHARS = {1: 50, 2: 128}

MISSING, BAD = 40, 41


def _json_text(chars_max: int, value: object) -> bool:
    return isinstance(value, str) and len(value) <= chars_max and isinstance(read_json(value), dict)


NOTIFICATION: Fields = {
    "app_message_id": (chars(1, 64), BAD),
    "style": (among(1, 2), BAD),  # 3, a big picture, is for broadcasts
    "title": (chars(1, 50), BAD),
    "sub_title": (chars(0, 10), BAD),
    "content": (chars(1, 128), BAD),
    "click_action_type": (among(0, 1, 2, 4, 5), BAD),
    "click_action_activity": (chars(1, 500), BAD),
    "click_action_url": (chars(1, 2000), BAD),
    "action_parameters": (lambda value: _json_text(4000, value), BAD),
    "off_line": (boolean, BAD),
    "off_line_ttl": (number(1, 864_000), BAD),
    "show_ttl": (number(0, 86_400), BAD),
    "show_time_type": (among(0, 1), BAD),
    "show_start_time": (number(0, 10**15), BAD),
    "show_end_time": (number(0, 10**15), BAD),
    "network_type": (among(0, 1), BAD),
    "call_back_url": (like(r"(?=.{1,200}$)https?://\S+"), BAD),
    "call_back_parameter": (chars(0, 100), BAD),
    "channel_id": (chars(1, 128), BAD),
    "notify_id": (number(0, 2**31 - 1), BAD),
    "category": (like(r"[A-Z][A-Z0-9_]{0,31}"), 67),
    "notify_level": (among(1, 2), 67),  # 16 takes a right that this app lacks
    "private_msg_template_id": (chars(1, 128), BAD),
    "private_title_parameters": (lambda value: _json_text(4000, value), BAD),
    "private_content_parameters": (lambda value: _json_text(4000, value), BAD),
    "badge_operation_type": (among(0, 1), BAD),
    "badge_message_count": (number(0, 2**31 - 1), BAD),
    "auditResponse": (lambda value: isinstance(value, dict), BAD),
}
MESSAGE: Fields = {
    "target_type": (among(2), BAD),
    "target_value": (like(r"[\x21-\x7e]+"), BAD),
    "verify_registration_id": (boolean, BAD),
    "notification": (lambda value: isinstance(value, dict), BAD),
}


def messages_of(text: str | None, field: str, kind: type) -> list[dict[str, Any]]:
    """The messages in a form's field: an object, or a list of them. Raises Wrong for the first mistake of any."""
    if not text:
        raise Wrong(MISSING, field)
    parsed = read_json(text)
    if not isinstance(parsed, kind):
        raise Wrong(BAD, field)
    messages: list[Any] = parsed if isinstance(parsed, list) else [parsed]
    if not 1 <= len(messages) <= TARGETS_MAX:
        raise Wrong(BAD, field)
    for message in messages:
        _check(message)
    return messages


def content_of(notification: Json) -> dict[str, Any]:
    """What a phone gets, in the words of `Emulator.deliver`."""
    title, body = notification["title"], notification["content"]
    if notification.get("private_msg_template_id") == TEMPLATE:
        title = _parameters(notification, "private_title_parameters").get("title", "{title}")
        body = _parameters(notification, "private_content_parameters").get("body", "{body}")
    count, notify_id = notification.get("badge_message_count"), notification.get("notify_id")
    return {
        "title": str(title),
        "body": str(body),
        "data": _parameters(notification, "action_parameters"),
        "collapse": None if notify_id is None else str(notify_id),
        "badge": count if isinstance(count, int) else None,
        "channel": str(notification.get("channel_id")),
        "priority": str(notification.get("notify_level", "")),
        "ttl": str(notification.get("off_line_ttl", 0)),
    }


def _check(message: object) -> None:
    """Raises Wrong for what OPPO refuses of one."""
    if not isinstance(message, dict):
        raise Wrong(BAD, "message")
    for field in ("target_type", "target_value", "notification"):
        if field not in message:
            raise Wrong(MISSING, field)
    look(message, MESSAGE, unknown=BAD)
    said = message["notification"]
    for field in ("title", "content"):
        if field not in said:
            raise Wrong(MISSING, field)
    look(said, NOTIFICATION, unknown=BAD)
    if len(said["content"]) > CONTENT_CHARS[said.get("style", 1)]:
        raise Wrong(BAD, "content")
    if said.get("channel_id") == NEWS_CHANNEL and said.get("show_ttl", 0) > NEWS_SHOWN_S:
        raise Wrong(BAD, "show_ttl")
    wants = {1: "click_action_activity", 4: "click_action_activity", 2: "click_action_url", 5: "click_action_url"}
    field = wants.get(said.get("click_action_type", 0), "title")
    if field not in said:
        raise Wrong(MISSING, field)
    if said.get("show_time_type") == 1:  # timed display
        for field in ("show_start_time", "show_end_time"):
            if field not in said:
                raise Wrong(MISSING, field)
        if said["show_start_time"] >= said["show_end_time"]:
            raise Wrong(BAD, "show_end_time")
    if "notify_level" in said and "category" not in said:
        raise Wrong(67, "notify_level")
    if said.get("category") == "IM" and "private_msg_template_id" not in said:
        raise Wrong(54, "private_msg_template_id")
    if said.get("private_msg_template_id", TEMPLATE) != TEMPLATE:
        raise Wrong(31, "private_msg_template_id")  # the sheet has no code for an unknown template
    if ("badge_operation_type" in said) != ("badge_message_count" in said):
        raise Wrong(MISSING, "badge_message_count")


def _parameters(notification: Json, field: str) -> Json:
    parsed: Json = read_json(str(notification.get(field, "{}")))
    return parsed
