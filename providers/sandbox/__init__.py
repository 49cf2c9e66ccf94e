"""Vendors' push services on local sockets, with virtual phones, for users and tests without vendor accounts.

Each emulator is written from the vendor's documents alone. It never imports the adapter that it examines, and the
adapter never imports it: a mistake made in both would cancel out.
"""

from providers.sandbox.server import Sandbox

__all__ = ["Sandbox"]
