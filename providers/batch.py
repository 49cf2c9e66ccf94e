"""Which pushes may share one call to a vendor. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from providers.contract import Push

__all__ = ["alike"]


def alike(pushes: Sequence[Push], places: Iterable[int], tokens_max: int) -> list[list[int]]:
    """`places` in `pushes`, in groups of at most `tokens_max` whose pushes differ in their token, and in that alone."""
    groups: list[list[int]] = []
    open_: dict[tuple[str, str, str | None], list[tuple[Push, list[int], set[str]]]] = {}
    for place in places:
        push = pushes[place]
        content = replace(push, token="")
        # Most differ here already; the rest of a push cannot be hashed, so it is compared.
        rivals = open_.setdefault((push.id, push.kind, push.collapse_key), [])
        found = next((rival for rival in rivals if rival[0] == content), None)
        if found is not None and (len(found[1]) >= tokens_max or push.token in found[2]):
            rivals.remove(found)
            found = None
        if found is None:
            found = (content, [], set())
            rivals.append(found)
            groups.append(found[1])
        found[1].append(place)
        found[2].add(push.token)
    return groups
