"""Writes results: one JSON file per run, a table in Markdown, and a CSV file."""

import csv
import json

FIGURES = ("ttft", "itl", "e2e")
# Where the E2E of a tool ends: with the last token, or with the end of the stream.
E2E_ENDS = {"aiperf": "e2e"}
SCHEDULE_ORDER = ["steady", "stall", "early-role", "error", "truncated"]


def save(result, directory):
    (directory / "result.json").write_text(json.dumps(result, indent=1, default=str))


def load(directory):
    """Returns the results of all runs in the directory, by schedule and streams."""
    results = [json.loads(path.read_text()) for path in directory.glob("*/result.json")]
    return sorted(results, key=lambda result: (SCHEDULE_ORDER.index(result["schedule"]), result["streams"], result["tool"]))


def ms(value):
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def shown(found):
    return f"{ms(found.get('p50'))} / {ms(found.get('p99'))}"


def true_figure(result, name):
    """Returns the true percentiles of a figure, for E2E those of the tool's definition."""
    return result["true"].get(E2E_ENDS.get(result["tool"], "e2e_end") if name == "e2e" else name) or {}


def compared(result, name):
    """Returns true and reported percentiles of a figure."""
    return f"{shown(true_figure(result, name))} → {shown(result['reported'].get(name) or {})}"


def counts(result):
    true, reported = result["true"], result["reported"]
    failed = reported.get("failed")
    return (f"{true['whole']} + {true['defective'] + true['left']} → "
            f"{'–' if reported.get('ok') is None else reported['ok']} + {'–' if failed is None else failed}")


def spent(result):
    cost = result["cost"]
    return f"{cost['cpu_s']:.1f} s", f"{cost['memory_mib']:.0f} MiB"


def line(result):
    return (f"    exit {result['exit_code']}, answers {counts(result)}, peak {result['true']['peak']} streams, TTFT {compared(result, 'ttft')}, "
            f"ITL {compared(result, 'itl')}, E2E {compared(result, 'e2e')}, {', '.join(spent(result))}, {result['cost']['wall_s']:.0f} s")


def table(results):
    """Returns the table. In each cell, the figures left of the arrow are true, those right of it reported."""
    rows = ["| schedule | streams | tool | complete + not | TTFT p50 / p99 | ITL p50 / p99 | E2E p50 / p99 | CPU | memory |",
            "|---|---|---|---|---|---|---|---|---|"]
    for result in results:
        cells = [result["schedule"], str(result["streams"]), result["tool"], counts(result),
                 *(compared(result, name) for name in FIGURES), *spent(result)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def write_files(results, directory):
    (directory / "results.json").write_text(json.dumps(results, indent=1))
    with open(directory / "results.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        names = [f"{side}_{name}_{share}_ms" for name in FIGURES for side in ("true", "reported") for share in ("p50", "p99")]
        writer.writerow(["schedule", "streams", "tool", "version", "asked", "answers", "whole", "defective", "peak_streams",
                         "reported_ok", "reported_failed", *names, "true_tpot_p50_ms", "true_tpot_p99_ms", "true_late_p99_ms", "cpu_s", "memory_mib", "wall_s"])
        for result in results:
            true, reported, cost = result["true"], result["reported"], result["cost"]
            figures = [found.get(share) for name in FIGURES
                       for found in (true_figure(result, name), reported.get(name) or {}) for share in ("p50", "p99")]
            writer.writerow([result["schedule"], result["streams"], result["tool"], result["version"], result["asked"], true["answers"],
                             true["whole"], true["defective"], true["peak"], reported.get("ok"), reported.get("failed"), *figures,
                             true["tpot"]["p50"], true["tpot"]["p99"], true["late"]["p99"], cost["cpu_s"], cost["memory_mib"], cost["wall_s"]])
