#!/usr/bin/env python3
"""Opens many sockets straight to the gateways of a native stack, with every token checked, and measures memory per socket.

Starts a stack with a gateway per 10,000 sockets and runs one generator per 15,000 sockets against it, each with its own loopback
address. Each session receives one token every five seconds. While all sockets are open, it measures the memory and CPU time of each
part, of the kernel, and the bytes on the loopback interface. Then it calculates what a larger number of sessions needs. Prints both as
Markdown tables that keep measured and calculated figures apart. With --haproxy the sockets go through HAProxy (at most 6,000).

    scripts/many_sockets.py --write figures.json              measure, and keep the figures
    scripts/many_sockets.py --from figures.json               calculate again, without a run
    scripts/many_sockets.py --from benches/sockets_60000.json --haproxy-figures benches/sockets_haproxy_6000.json
"""

import argparse
import csv
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

SOCKETS_PER_GATEWAY = 10_000
SOCKETS_PER_GENERATOR = 15_000
# HAProxy needs two of its 20,000 descriptors per socket, and some for itself and for HTTP calls.
SOCKETS_PER_HAPROXY = 9_000
# Share of a core that is planned to be used.
BUSY = 0.7
SECONDS_PER_TOKEN = 5
# Seconds after the last socket was opened before the measurement begins, and its length.
SETTLE, MEASURED = 15, 30
ROLES = ["wsproxy", "client", "server", "redis", "haproxy"]
NAMES = {"wsproxy": "gateway", "client": "load client", "server": "simulator", "redis": "Redis", "haproxy": "HAProxy"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, default=60_000, help="sockets to open; below 6000, memory per socket mostly shows what the parts need to start [default: 60000]")
    parser.add_argument("--rate", type=int, default=1_000, help="new sockets per second, at most 1500 [default: 1000]")
    parser.add_argument("--haproxy", action="store_true", help="send the sockets through HAProxy")
    parser.add_argument("--program", help="the program `streamstress` [default: built with --release]")
    parser.add_argument("--output-dir", metavar="DIR", help="keep the results of the run here")
    parser.add_argument("--write", metavar="FILE", help="keep the measured figures")
    parser.add_argument("--from", dest="figures", metavar="FILE", help="calculate from earlier figures, without a run")
    parser.add_argument("--sessions", type=int, default=1_000_000, help="sessions to calculate for [default: 1000000]")
    parser.add_argument("--tokens-per-second", type=float, default=0.2, help="tokens per second and session to calculate for [default: 0.2]")
    parser.add_argument("--haproxy-figures", metavar="FILE", help="figures of a run with --haproxy, which add HAProxy to the calculation")
    parser.add_argument("--host-cores", type=int, default=2, help="cores of each host to calculate for [default: 2]")
    parser.add_argument("--host-gib", type=int, default=24, help="memory of each host to calculate for, in GiB [default: 24]")
    chosen = parser.parse_args()
    if not 1 <= chosen.rate <= 1_500 or not 100 <= chosen.sockets <= (6_000 if chosen.haproxy else 60_000):
        parser.error("expected --rate 1 to 1500, and --sockets 100 to 60000 (with --haproxy to 6000)")
    return chosen


def program(given):
    if given:
        return given
    root = pathlib.Path(__file__).resolve().parent.parent
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "client"], cwd=root, check=True)
    metadata = subprocess.run(["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=root, check=True, capture_output=True)
    return json.loads(metadata.stdout)["target_directory"] + "/release/streamstress"


def kernel():
    """Returns the kernel's memory in bytes that sockets use or share, and the bytes sent over the loopback interface."""
    memory = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in open("/proc/meminfo")}
    tcp = next(line for line in open("/proc/net/sockstat") if line.startswith("TCP:")).split()
    loopback = next(line for line in open("/proc/net/dev") if line.strip().startswith("lo:")).split(":")[1].split()
    return {
        "available": memory["MemAvailable"],
        "slab": memory["SUnreclaim"],
        "buffers": int(tcp[tcp.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE"),
        "sent": int(loopback[8]),
    }


def measure(chosen):
    streamstress = program(chosen.program)
    work = pathlib.Path(tempfile.mkdtemp(prefix="streamstress-sockets-"))
    gateways = 3 if chosen.haproxy else math.ceil(chosen.sockets / SOCKETS_PER_GATEWAY)
    generators = math.ceil(chosen.sockets / SOCKETS_PER_GENERATOR)
    environment = dict(
        os.environ,
        STREAMSTRESS_STATE_DIR=str(work / "stack"),
        MAX_CONNECTIONS=str(SOCKETS_PER_GATEWAY * 12 // 10),
        MAX_STREAMS=str(chosen.sockets),
        WS_PING_INTERVAL_SECS="60",
        WS_PING_TIMEOUT_SECS="120",
    )

    def run(*words, **options):
        return subprocess.run([streamstress, *words], env=environment, check=True, text=True, **options)

    finished = None
    ramp_up = math.ceil(chosen.sockets / chosen.rate)
    tokens = math.ceil((ramp_up + SETTLE + MEASURED + 10) / SECONDS_PER_TOKEN)
    results = pathlib.Path(chosen.output_dir or work / "results").absolute()
    try:
        ports = ["--api-port", "0", "--ws-port", "0", "--stats-port", "0"]
        run("stack", "up", "--detach", "--proxies", str(gateways), *ports, stdout=subprocess.DEVNULL)
        status = json.loads(run("stack", "status", "--json", capture_output=True).stdout)
        targets = [f"ws://127.0.0.1:{one['port']}" for one in status["processes"] if one["name"].startswith("wsproxy")]
        if chosen.haproxy:
            targets = [status["ws_url"]]
        before, begun, samples = kernel(), time.monotonic(), []

        def sample():
            for at in (ramp_up + SETTLE, ramp_up + SETTLE + MEASURED):
                time.sleep(max(0.0, begun + at - time.monotonic()))
                samples.append(kernel())

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        load = ["--clients", str(chosen.sockets), "--queries", "1", "--ramp-up", f"{ramp_up}s", "--ping-timeout", "150s"]
        load += ["--answer-tokens", str(tokens), "--itl-ms", str(SECONDS_PER_TOKEN * 1000), "--query-timeout", "1h"]
        load += ["--generators", str(generators), "--output-dir", str(results), "--api-url", status["api_url"]]
        for target in targets:
            load += ["--wsproxy-url", target]
        finished = subprocess.Popen([streamstress, "run", *load], env=environment)
        code = finished.wait()
        sampler.join()
        if code not in (0, 98):
            sys.exit(f"many_sockets: the run failed with exit code {code}")
        return figures(chosen, results, ramp_up, before, samples, gateways, generators)
    finally:
        if finished and finished.poll() is None:
            # The second signal ends it without waiting for running queries.
            finished.terminate()
            time.sleep(0.5)
            finished.terminate()
            finished.wait()
        subprocess.run([streamstress, "stack", "down"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.rmtree(work, ignore_errors=True)


def role(process):
    return process.split("-")[0]


def figures(chosen, results, ramp_up, before, samples, gateways, generators):
    summary = json.load(open(next(results.glob("*_summary.json"))))
    history = [float(row["User Count"] or 0) for row in csv.DictReader(open(next(results.glob("*_history.csv"))))]
    rows = list(csv.DictReader(open(next(results.glob("*_resources.csv")))))
    first, last = ramp_up + SETTLE, ramp_up + SETTLE + MEASURED
    sockets = min(history[first:last])
    if sockets < chosen.sockets * 0.999:
        sys.exit(f"many_sockets: only {sockets:.0f} of {chosen.sockets} sockets were open at once")

    def total(kind, column, start, end):
        seconds = {}
        for row in rows:
            if role(row["process"]) == kind and start <= int(row["second"]) < end and row[column]:
                seconds[row["second"]] = seconds.get(row["second"], 0.0) + float(row[column])
        return sum(seconds.values()) / len(seconds) if seconds else 0.0

    # Memory before most of the sockets: the second in which a tenth of them is open.
    early = next(second for second, count in enumerate(history) if count >= sockets / 10)
    growth = sockets - history[early]
    memory = {}
    for kind in ROLES:
        plateau, tenth = total(kind, "rss_mb", first, last), total(kind, "rss_mb", early, early + 1)
        memory[kind] = {"rss_mb": plateau, "bytes_per_socket": (plateau - tenth) * 1e6 / growth}
    per_second = chosen.sockets / SECONDS_PER_TOKEN
    return {
        "sockets": chosen.sockets,
        "through_haproxy": chosen.haproxy,
        "gateways": gateways,
        "generators": generators,
        "verdict": summary["verdict"],
        "tokens_received": summary["tokens_received"],
        "tokens_expected": summary["tokens_expected"],
        "tokens_per_second": per_second,
        "memory": memory,
        "cores": {kind: total(kind, "cpu_share", first, last) for kind in ROLES},
        "kernel_bytes_per_socket": (samples[0]["slab"] + samples[0]["buffers"] - before["slab"] - before["buffers"]) / chosen.sockets,
        "machine_bytes_per_socket": (before["available"] - samples[0]["available"]) / chosen.sockets,
        "network_bytes_per_token": (samples[1]["sent"] - samples[0]["sent"]) / (MEASURED * per_second),
    }


def kib(value):
    return f"{value / 1024:.1f} KiB"


def print_measured(measured):
    rate = measured["tokens_per_second"]
    print(f"\n{measured['sockets']:,} sockets, {measured['gateways']} gateways, {measured['generators']} generators: {measured['verdict']}, "
          f"{measured['tokens_received']:,} of {measured['tokens_expected']:,} tokens, {rate:,.0f} tokens/s\n")
    print("| part | resident memory | memory per socket | cores | CPU time per token |\n|---|---|---|---|---|")
    for kind in ROLES:
        memory, cores = measured["memory"][kind], measured["cores"][kind]
        if kind == "haproxy" and not measured["through_haproxy"]:
            continue
        print(f"| {NAMES[kind]} | {memory['rss_mb']:,.0f} MB | {kib(memory['bytes_per_socket'])} | {cores:.2f} | {cores / rate * 1e6:.1f} µs |")
    print(f"| kernel, both ends | | {kib(measured['kernel_bytes_per_socket'])} | | |")
    print(f"| whole machine | | {kib(measured['machine_bytes_per_socket'])} | | |")
    print(f"\nNetwork: {measured['network_bytes_per_token']:.0f} bytes per token between gateway and client, headers and acknowledgements included.\n")


def print_calculated(measured, haproxy, chosen):
    """Prints what `chosen.sessions` need. `haproxy` has the figures of a run through HAProxy, or is None."""
    sessions, total = chosen.sessions, chosen.sessions * chosen.tokens_per_second
    print(f"{sessions:,} sessions with {chosen.tokens_per_second} tokens/s each, {total:,.0f} tokens/s, "
          f"hosts with {chosen.host_cores} cores and {chosen.host_gib} GiB:\n")
    print("| | measured | calculated |\n|---|---|---|")
    kernel_per_socket = measured["kernel_bytes_per_socket"]
    all_hosts, redis_cores = 0, 0.0
    for kind in ROLES:
        source = haproxy if kind == "haproxy" else measured
        if source is None:
            continue
        per_session, per_token = source["memory"][kind]["bytes_per_socket"], source["cores"][kind] / source["tokens_per_second"]
        memory, cores = per_session * sessions, per_token * total
        # The kernel's sockets to the clients: HAProxy has the other half of those to the gateways as well.
        ends = {"wsproxy": 1, "client": 1, "haproxy": 2}.get(kind, 0)
        resident = memory + ends * kernel_per_socket / 2 * sessions
        hosts = max(math.ceil(cores / (BUSY * chosen.host_cores)), math.ceil(resident / (chosen.host_gib << 30)))
        print(f"| {NAMES[kind]}, memory | {kib(per_session)} per session | {memory / 1e9:.1f} GB |")
        print(f"| {NAMES[kind]}, cores | {per_token * 1e6:.1f} µs per token | {cores:.1f} |")
        if kind == "redis":
            redis_cores = cores
            # A Redis instance uses one core.
            hosts = max(hosts, math.ceil(math.ceil(redis_cores / BUSY) / chosen.host_cores))
        print(f"| {NAMES[kind]}, hosts | | {hosts} |")
        all_hosts += hosts
    print(f"| all hosts, {BUSY:.0%} busy | | {all_hosts} |")
    print(f"| kernel, memory at each end of the sockets | {kib(kernel_per_socket)} per socket, both ends | {kernel_per_socket / 2 * sessions / 1e9:.1f} GB |")
    print(f"| Redis instances, one thread each, {BUSY:.0%} busy | | {math.ceil(redis_cores / BUSY)} |")
    print(f"| gateways | {SOCKETS_PER_GATEWAY:,} sockets each | {math.ceil(sessions / SOCKETS_PER_GATEWAY)} |")
    if haproxy:
        print(f"| HAProxies, at most {SOCKETS_PER_HAPROXY:,} sockets each | {haproxy['sockets']:,} sockets in one | {math.ceil(sessions / SOCKETS_PER_HAPROXY)} |")
    print(f"| generators | {SOCKETS_PER_GENERATOR:,} sockets each | {math.ceil(sessions / SOCKETS_PER_GENERATOR)} |")
    network = measured["network_bytes_per_token"] * total * 8 / 1e9
    print(f"| network to the clients | {measured['network_bytes_per_token']:.0f} bytes per token | {network:.2f} Gbit/s |")


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = arguments()
    measured = json.load(open(chosen.figures)) if chosen.figures else measure(chosen)
    if chosen.write:
        pathlib.Path(chosen.write).write_text(json.dumps(measured, indent=2) + "\n")
    haproxy = json.load(open(chosen.haproxy_figures)) if chosen.haproxy_figures else measured if measured["through_haproxy"] else None
    print_measured(measured)
    print_calculated(measured, haproxy, chosen)


if __name__ == "__main__":
    main()
