from __future__ import annotations

import json

import pytest

from spark_helium.errors import ProtocolError
from spark_helium.gpu_executor.messages import (
    PROTOCOL_VERSION,
    Accepted,
    Counters,
    DiskStatus,
    EngineStatus,
    Fatal,
    Owner,
    Report,
    Status,
    StreamHeader,
    WireMessage,
)

COUNTERS = Counters(1, 2, 3, 4, 5, 6, 7)
MESSAGES = [
    StreamHeader('{"calls":[]}', False, "q", "app", Owner(12, 1700000000.25), 5.0, 6.0, 128, 1000),
    StreamHeader("{}"),
    Accepted(1),
    Report(COUNTERS),
    Report(COUNTERS, 992),
    Fatal("because ☃", "m"),
    Status(1, "0.1", "ab", 1.5, 0.5, True, 1, 2, 3, COUNTERS, 4, 5, 6, (7, 8), (EngineStatus("m", "ready"),)),
    Status(1, "0.1", "ab", 1.5, 0.5, True, 1, 2, 3, COUNTERS, 4, 5, 6, (), (), 7, DiskStatus("/d", 8, "full", "", 9)),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_round_trip(message):
    data = message.encode()
    assert json.loads(data)["protocol"] == PROTOCOL_VERSION
    assert type(message).decode(data) == message
    assert WireMessage.decode(data) == message


def test_other_version_names_both():
    body = json.loads(Accepted(1).encode()) | {"protocol": PROTOCOL_VERSION + 1, "new_field": 1}
    with pytest.raises(ProtocolError) as error:
        WireMessage.decode(json.dumps(body).encode())
    assert f"version {PROTOCOL_VERSION + 1}" in str(error.value)
    assert f"version {PROTOCOL_VERSION}:" in str(error.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04junk",
        b"[]",
        b"{}",
        b'{"protocol":2,"message":"Nothing"}',
        b'{"protocol":2,"message":"Accepted"}',
        b'{"protocol":2,"message":"Report","counters":{"x":1}}',
        b'{"protocol":2,"message":"Fatal","reason":"r","extra":1}',
    ],
)
def test_malformed(data):
    with pytest.raises(ProtocolError):
        WireMessage.decode(data)


def test_unexpected_kind():
    with pytest.raises(ProtocolError, match="expected a Fatal message, got 'Accepted'"):
        Fatal.decode(Accepted(1).encode())


def test_counters_add_up():
    total = Counters()
    assert not total
    total.add(COUNTERS)
    total.add(COUNTERS)
    assert total == Counters(2, 4, 6, 8, 10, 12, 14)
    assert total
