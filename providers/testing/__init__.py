"""What every adapter that speaks HTTP has to keep to, as a pytest class: fill in the samples, inherit the tests.

Needs pytest and hypothesis. Nothing outside of tests imports this.
"""

from providers.testing.answers import Answers
from providers.testing.batches import Batches
from providers.testing.requests import Requests
from providers.testing.scripted import NOW_S, Scripted

__all__ = ["NOW_S", "ProviderContract", "Scripted"]


class ProviderContract(Requests, Answers, Batches):
    """Inherit as `TestAcme`, and say: provider, settings, token, login (if it logs in), answers."""
