"""Rules for lists in overrides, beside `providers.fields`. Pure."""

from collections.abc import Mapping

from providers.fields import Rule, Rules, mistakes

__all__ = ["objects", "several"]


def several(rule: Rule, most: int, must: str) -> Rule:
    """At most so many, each of which keeps to `rule`."""

    def holds(value: object) -> bool:
        return isinstance(value, list | tuple) and len(value) <= most and all(rule.holds(one) for one in value)

    return Rule(holds, must)


def objects(rules: Rules, most: int, must: str) -> Rule:
    """At most so many objects, each of which keeps to `rules`."""
    return several(Rule(lambda one: isinstance(one, Mapping) and not any(mistakes(one, rules)), ""), most, must)
