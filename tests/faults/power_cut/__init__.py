"""Power cuts and errors of the disk: what the relay writes is recorded below SQLite, and put together again otherwise."""
