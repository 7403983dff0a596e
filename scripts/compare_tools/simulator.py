"""Starts the simulator, and reads its record of what it sent."""

import json
import re
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager

import schedules


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(url, process, patience=10):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
    raise SystemExit(f"the simulator is not ready at {url}: its log is beside the record")


@contextmanager
def simulator(program, schedule, directory):
    """Yields the base URL of a simulator with this schedule. Its record is `record.jsonl` in the directory."""
    port = free_port()
    command = [program, "server", "--bus", "memory", "--host", "127.0.0.1", "--port", str(port), "--server-workers", "1",
               "--record", str(directory / "record.jsonl"), *schedules.options(schedule)]
    with open(directory / "simulator.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/ready", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def read_record(directory):
    """Returns the answers that the simulator recorded, in the order in which they ended."""
    with open(directory / "record.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def version(program):
    line = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"\S+$", line.strip()).group()
