#!/usr/bin/env python3
"""Checks that a Prometheus which scraped a stack and a load generator knows every metric in the queries of dashboards and alerts, and
that it accepts every query.

usage: check_dashboards.py http://HOST:PORT   (of Prometheus)
       check_dashboards.py --list             (prints the metrics that the queries name)

Exit code 0: all is well. 1: a metric is unknown, or a query is refused; each is printed.
"""

import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent / "docker/observability"
# Words of PromQL that are not metrics.
FUNCTIONS = {"sum", "rate", "increase", "histogram_quantile", "max", "min", "avg"}
KEYWORDS = {"by", "without", "or", "and", "unless", "on", "ignoring", "bool", "offset"}
# Metrics of Prometheus itself.
OWN = {"ALERTS"}


def queries():
    """Yields where a query stands, and the query."""
    for path in sorted(ROOT.glob("grafana/dashboards/*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}, panel {panel['title']!r}", target["expr"]
        for annotation in dashboard["annotations"]["list"]:
            yield f"{path.name}, annotation {annotation['name']!r}", annotation["expr"]
    for group in yaml.safe_load((ROOT / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alerts.yml, {rule['alert']}", rule["expr"]


def metrics(query):
    """Returns the metrics that a query names."""
    # Selectors, strings, ranges and groupings name labels and values.
    query = re.sub(r'\{[^}]*\}|"[^"]*"|\[[^\]]*\]', " ", query)
    query = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", " ", query)
    words = set(re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*", query))
    return words - FUNCTIONS - KEYWORDS - OWN


def ask(prometheus, path):
    with urllib.request.urlopen(f"{prometheus}/api/v1/{path}", timeout=10) as response:
        return json.load(response)["data"]


def refusal(prometheus, query):
    """Returns why Prometheus refuses a query, or None."""
    text = query.replace("$__rate_interval", "1m")
    try:
        ask(prometheus, f"query?{urllib.parse.urlencode({'query': text})}")
    except urllib.error.HTTPError as error:
        return json.load(error).get("error", str(error))
    return None


def main(arguments):
    found = list(queries())
    if arguments == ["--list"]:
        print("\n".join(sorted(set().union(*(metrics(query) for _, query in found)))))
        return 0
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    known = set(ask(arguments[0], "label/__name__/values"))
    errors = []
    for place, query in found:
        errors += [f"{place}: {metric} is not exposed" for metric in sorted(metrics(query) - known)]
        why = refusal(arguments[0], query)
        if why:
            errors.append(f"{place}: {why}")
    print("\n".join(errors) or f"{len(found)} queries are valid and name only metrics that are exposed")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
