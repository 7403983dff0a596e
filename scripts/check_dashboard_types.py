#!/usr/bin/env python3
"""Checks that Grafana's own types know every key of the dashboards: a key that they do not read, for example a misspelled one, is printed.

Needs the Python package grafana-foundation-sdk. Exit code 0: all keys are known, or the package is missing. 1: some are not.
"""

import json
import sys
from pathlib import Path

try:
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard
except ImportError:
    print("skipped: grafana-foundation-sdk could not be installed from PyPI")
    sys.exit(0)

DASHBOARDS = Path(__file__).resolve().parent.parent / "docker/observability/grafana/dashboards"
# Keys of annotations that belong to the Prometheus data source, which these types do not describe.
OF_PROMETHEUS = {"titleFormat", "textFormat"}


def unread(written, read, place=""):
    """Yields the places of `written` that `read`, which was made from it, lacks or changes."""
    if isinstance(written, dict) and isinstance(read, dict):
        for key, value in written.items():
            if key in read:
                yield from unread(value, read[key], f"{place}/{key}")
            elif not (key in OF_PROMETHEUS and place.startswith("/annotations/")):
                yield f"{place}/{key}"
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for index, (one, other) in enumerate(zip(written, read)):
            yield from unread(one, other, f"{place}/{index}")
    elif written != read:
        yield place


def main():
    register_default_plugins()
    panels, errors = 0, []
    for path in sorted(DASHBOARDS.glob("*.json")):
        written = json.loads(path.read_text())
        read = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(json.loads(path.read_text()))))
        panels += len(written["panels"])
        errors += [f"{path.name}: Grafana does not read {place}" for place in unread(written, read)]
    print("\n".join(errors) or f"Grafana's types know every key of {panels} panels")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
