"""A client in a process of its own, for tests that kill it: opens a stream, sends rows, says so, waits for ever."""

from __future__ import annotations

import json
import sys
import time

import pyarrow as pa

from spark_helium.call_graph import Call, CallGraph, InputRef, Message, Sampling
from spark_helium.conf import Settings
from spark_helium.gpu_executor.client import RowStream


def main() -> None:
    settings = Settings(json.loads(sys.argv[1]))
    graph = CallGraph((Call(0, "m", (Message("user", (InputRef(0),)),), Sampling(16)),), 1)
    batch = pa.record_batch([pa.array(sys.argv[2:], pa.string())], ["input0"])
    stream = RowStream.open(settings, RowStream.header(graph.to_json(), settings, "app", ""), batch.schema)
    stream.send(batch)
    print("sent", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
