"""Runs a command and measures what it costs: CPU time and memory of all its processes."""

import os
import resource
import subprocess
import threading
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAUSE = 0.25


def processes(session):
    """Yields the number and the fields of `stat` of all processes of a session."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session:
                yield int(entry.name), fields


def memory_mib(process):
    """Returns the proportional memory of a process: pages that several processes share count in part."""
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


class Sampler(threading.Thread):
    """Reads the cost of a session's processes until it is stopped."""

    def __init__(self, session):
        super().__init__(daemon=True)
        self.session, self.over = session, threading.Event()
        self.cpu, self.peak_mib, self.most = {}, 0.0, 0

    def run(self):
        while not self.over.wait(PAUSE):
            self.sample()

    def sample(self):
        found = dict(processes(self.session))
        for process, fields in found.items():
            self.cpu[process] = (int(fields[11]) + int(fields[12])) / TICKS
        self.peak_mib = max(self.peak_mib, sum(map(memory_mib, found)))
        self.most = max(self.most, len(found))


def children_cpu():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(command, directory, env=None, limit=170):
    """Runs the command in the directory with its output in `tool.log`. Returns the exit code, or None after the limit, and the cost."""
    before, began = children_cpu(), time.monotonic()
    with open(directory / "tool.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   env={**os.environ, **(env or {})}, start_new_session=True)
    sampler = Sampler(process.pid)
    sampler.start()
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        wall = time.monotonic() - began
        sampler.over.set()
        sampler.join()
        for left, _ in list(processes(process.pid)):
            os.kill(left, 9)
        process.wait()
    # Processes that ended between two samples are in the first figure, those that nobody waited for in the second.
    cpu = max(children_cpu() - before, sum(sampler.cpu.values()))
    return code, {"cpu_s": cpu, "memory_mib": sampler.peak_mib, "processes": sampler.most, "wall_s": wall}
