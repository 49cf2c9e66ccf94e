"""All routes of the relay, in one table."""

from dataclasses import replace

from relay.api.routes import Route
from relay.api.table import device, devices, messages, operation, system, users, webhooks

ROUTES: tuple[Route, ...] = (
    *messages.ROUTES,
    *devices.ROUTES,
    *users.ROUTES,
    *webhooks.ROUTES,
    *operation.ROUTES,
    *device.ROUTES,
    *system.ROUTES,
)


def routes(*, send_bytes_max: int, batch_bytes_max: int) -> tuple[Route, ...]:
    """The table with the operator's limits of bodies."""
    own = {"send": send_bytes_max, "send_batch": batch_bytes_max, "send_from_device": send_bytes_max}
    return tuple(replace(row, body_bytes_max=own[row.handler]) if row.handler in own else row for row in ROUTES)
