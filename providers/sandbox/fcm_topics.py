"""FCM topic names and conditions such as `'news' in topics && !('sport' in topics)`.

Source: vendor sheet fcm.md §3.1: names without `/topics/`, a boolean expression over at most five topics.
"""

import re
from collections.abc import Callable, Collection, Sequence

CONDITION_TOPICS_MAX = 5
CONDITION_CHARS_MAX = 1024
CONDITION_DEPTH_MAX = 20
TOPIC = re.compile(r"[a-zA-Z0-9\-_.~%]{1,900}")

Holds = Callable[[Collection[str]], bool]  # given a phone's topics: does the condition address it?

_WORD = re.compile(r"\s*(?:(&&|\|\||!|\(|\))|(['\"])(?P<topic>[^'\"]*)\2\s+in\s+topics\b)\s*")


def parse_condition(text: str) -> Holds:
    """The condition as a function. Raises ValueError with a sentence for the sender."""
    if len(text) > CONDITION_CHARS_MAX:
        raise ValueError(f"The condition is longer than {CONDITION_CHARS_MAX} characters.")
    words, at = [], 0
    while at < len(text):
        match = _WORD.match(text, at)
        if match is None:
            raise ValueError("Invalid condition expression provided.")
        topic = match["topic"]
        if topic is not None and not TOPIC.fullmatch(topic):
            raise ValueError("Invalid topic name in the condition.")
        words.append(match[1] if topic is None else f"'{topic}")
        at = match.end()
    if sum(word[0] == "'" for word in words) > CONDITION_TOPICS_MAX:
        raise ValueError(f"The condition names more than {CONDITION_TOPICS_MAX} topics.")
    holds, rest = _either(words, 0)
    if rest:
        raise ValueError("Invalid condition expression provided.")
    return holds


def _either(words: Sequence[str], depth: int) -> tuple[Holds, Sequence[str]]:
    left, words = _both(words, depth)
    while words and words[0] == "||":
        right, words = _both(words[1:], depth)
        left = _or(left, right)
    return left, words


def _both(words: Sequence[str], depth: int) -> tuple[Holds, Sequence[str]]:
    left, words = _one(words, depth)
    while words and words[0] == "&&":
        right, words = _one(words[1:], depth)
        left = _and(left, right)
    return left, words


def _one(words: Sequence[str], depth: int) -> tuple[Holds, Sequence[str]]:
    if not words or depth > CONDITION_DEPTH_MAX:
        raise ValueError("Invalid condition expression provided.")
    word, rest = words[0], words[1:]
    if word[0] == "'":
        return _in(word[1:]), rest
    if word == "!":
        inner, rest = _one(rest, depth + 1)
        return _not(inner), rest
    if word == "(":
        inner, rest = _either(rest, depth + 1)
        if rest and rest[0] == ")":
            return inner, rest[1:]
    raise ValueError("Invalid condition expression provided.")


def _in(topic: str) -> Holds:
    return lambda topics: topic in topics


def _not(inner: Holds) -> Holds:
    return lambda topics: not inner(topics)


def _and(left: Holds, right: Holds) -> Holds:
    return lambda topics: left(topics) and right(topics)


def _or(left: Holds, right: Holds) -> Holds:
    return lambda topics: left(topics) or right(topics)
