"""Builds the environments of all peers and says which can run: ``python -m benchmarks.peers [--lock] [NAME ...]``."""

from __future__ import annotations

import argparse
import sys

from benchmarks.peers import environments


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(environments.names())}; none: all")
    parser.add_argument("--lock", action="store_true", help="write the locks anew from requirements.in first")
    args = parser.parse_args()
    chosen = args.names or environments.names()
    unknown = [name for name in chosen if name not in environments.PEERS]
    if unknown:
        parser.error(f"there is no peer {unknown[0]!r}; there are {', '.join(environments.names())}")
    if args.lock:
        # Two peers may share an environment.
        of_environments = {environments.PEERS[name].environment: name for name in chosen}
        try:
            for name in of_environments.values():
                if not environments.PEERS[name].reason:
                    environments.lock(name)
        except environments.BuildError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    failed = 0
    for name in chosen:
        print(f"{name}: ", end="", flush=True)
        try:
            print(environments.build(name))
        except environments.BuildError as error:
            # One that is only listed was not to be built.
            failed += environments.PEERS[name].reason is None
            print(f"cannot run: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
