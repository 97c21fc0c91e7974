from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gpu_executor.daemons import DaemonDirectory, daemon_directory


@pytest.fixture
def daemons() -> Iterator[DaemonDirectory]:
    with daemon_directory() as directory:
        yield directory
