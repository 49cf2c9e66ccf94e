"""Connections that end without a word."""

import asyncio
import socket
import struct

RESET_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST, not FIN


def reset(transport: asyncio.Transport) -> None:
    """Cuts the connection so that the client sees ECONNRESET rather than an orderly end."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_ONCE)
    transport.abort()
