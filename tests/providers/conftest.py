"""What tests of several vendors share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, as making keys takes longest."""
    return tmp_path_factory.mktemp("state")
