"""What tests of several vendors share."""

from pathlib import Path

import pytest

from providers.sandbox import Sandbox
from providers.sandbox.apns import ApnsEmulator


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, as making keys takes longest."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def apple(sandbox: Sandbox) -> ApnsEmulator:
    """Of the sandbox that the tests of the file have."""
    emulator = sandbox.emulators["apns"]
    assert isinstance(emulator, ApnsEmulator)
    return emulator
