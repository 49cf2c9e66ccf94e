"""What a device is told of its version (protocol 10.1): advice to the app, never a reason to withhold a message."""

from dataclasses import dataclass
from typing import Any

from relay.inbox.visibility import version_key


@dataclass(frozen=True, slots=True)
class Versions:
    """The app's versions, as its operator sees them; empty: nothing is said."""

    least: str = ""
    recommended: str = ""

    def advice(self, app_version: str | None) -> dict[str, Any]:
        """For a device that says it has this version; one that says nothing is told to do nothing."""
        upgrade = "none"
        for word, wanted in (("recommended", self.recommended), ("required", self.least)):
            if app_version is not None and wanted and version_key(app_version) < version_key(wanted):
                upgrade = word
        return {"min_app_version": self.least or None, "upgrade": upgrade}
