"""The tools: how each is called, and where its figures are. Definitions of the figures are in docs/truth.md."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from schedules import TOKENS
from truth import percentile

HERE = Path(__file__).resolve().parent
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_COLOR": "1", "COLUMNS": "200"}


@dataclass(frozen=True)
class Load:
    streams: int
    rounds: int
    tokenizer: Path
    directory: Path
    # The program of the simulator, which is this client too.
    streamstress: Path

    @property
    def requests(self):
        return self.streams * self.rounds


def find(name, places):
    """Returns the program of a tool, or None."""
    inside = places / name / "bin" / name
    if inside.exists():
        return inside
    found = shutil.which(name)
    return Path(found) if found else None


def pair(values, p50, p99, factor=1.0):
    """Returns two percentiles in milliseconds. Each may be missing."""
    def value(key):
        found = values.get(key) if values else None
        return None if found is None else float(found) * factor
    return {"p50": value(p50), "p99": value(p99)}


def buckets(row):
    """Returns two percentiles of Locust's rounded times, which it counts by value."""
    if not row:
        return {"p50": None, "p99": None}
    times = [float(value) for value, count in row["response_times"].items() for _ in range(count)]
    return {"p50": percentile(times, 0.50), "p99": percentile(times, 0.99)}


def one(directory, pattern):
    found = sorted(directory.rglob(pattern))
    return found[-1] if found else None


class Tool:
    name = ""

    def version(self, program):
        python = program.parent / "python"
        code = f"from importlib.metadata import version; print(version('{self.name}'))"
        return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()

    def command(self, program, url, load):
        """Returns the command and its environment."""
        raise NotImplementedError

    def read(self, directory):
        """Returns `ok`, `failed`, and `ttft`, `itl` and `e2e` as percentiles in milliseconds."""
        raise NotImplementedError


class Streamstress(Tool):
    name = "streamstress"

    def version(self, program):
        line = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        return line.split()[-1]

    def command(self, program, url, load):
        return [str(program), "run", "--dialect", "openai-chat", "--api-url", f"{url}/v1", "--model", "sim", "--prompt", "This is a question",
                "--max-tokens", str(TOKENS), "--clients", str(load.streams), "--queries", str(load.rounds), "--ramp-up", "0s",
                "--output-dir", str(load.directory), "--name", "run"], {}

    def read(self, directory):
        path = one(directory, "*_summary.json")
        if path is None:
            return {}
        summary = json.loads(path.read_text())
        ok, metrics = summary["queries_ok"], summary["metrics"]
        return {"ok": ok, "failed": summary["queries_total"] - ok, "codes": summary["queries_error_by_code"], "verdict": summary["verdict"],
                **{name: pair(metrics.get(f"{figure}_ms"), "p50", "p99") for name, figure in
                   (("ttft", "ttft"), ("itl", "itl"), ("tpot", "tpot"), ("e2e", "e2el"))}}


class Locust(Tool):
    name = "locust"

    def command(self, program, url, load):
        variables = {"ROUNDS": str(load.rounds), "STREAMS": str(load.streams), "MAX_TOKENS": str(TOKENS)}
        return [str(program), "--headless", "--locustfile", str(HERE / "locustfile.py"), "--host", url, "--users", str(load.streams),
                "--spawn-rate", str(load.streams), "--run-time", "120s", "--only-summary", "--json-file", "stats", "--stop-timeout", "10"], variables

    def read(self, directory):
        path = one(directory, "stats.json")
        if path is None:
            return {}
        rows = {row["name"]: row for row in json.loads(path.read_text())}
        whole = rows.get("e2e", {})
        failed = whole.get("num_failures", 0) + rows.get("head", {}).get("num_failures", 0)
        return {"ok": whole.get("num_requests", 0) - whole.get("num_failures", 0), "failed": failed,
                **{name: buckets(rows.get(name)) for name in ("ttft", "itl", "e2e")}}


class K6(Tool):
    name = "k6"

    def version(self, program):
        line = subprocess.run([program, "version"], capture_output=True, text=True, check=True).stdout
        return re.search(r"v([\d.]+)", line).group(1)

    def command(self, program, url, load):
        variables = {"STREAMS": str(load.streams), "ROUNDS": str(load.rounds), "MAX_TOKENS": str(TOKENS), "URL": url,
                     "K6_NO_USAGE_REPORT": "true"}
        return [str(program), "run", "--quiet", "--no-usage-report", "--summary-export", "summary.json", str(HERE / "k6.js")], variables

    def read(self, directory):
        path = one(directory, "summary.json")
        if path is None:
            return {}
        metrics = json.loads(path.read_text())["metrics"]
        checks = metrics.get("checks", {})
        return {"ok": checks.get("passes"), "failed": checks.get("fails"), "itl": {"p50": None, "p99": None},
                "ttft": pair(metrics["http_req_waiting"], "p(50)", "p(99)"),
                "e2e": pair(metrics["http_req_duration"], "p(50)", "p(99)")}


class AIPerf(Tool):
    name = "aiperf"

    def command(self, program, url, load):
        return [str(program), "profile", "--model", "sim", "--url", url, "--endpoint-type", "chat", "--streaming",
                "--tokenizer", str(load.tokenizer), "--isl", "4", "--osl", str(TOKENS), "--concurrency", str(load.streams),
                "--request-count", str(load.requests), "--num-dataset-entries", "10", "--random-seed", "1", "--ui", "none",
                "--no-gpu-telemetry", "--no-server-metrics", "--artifact-dir", str(load.directory / "artifacts")], {"NO_COLOR": "1", "COLUMNS": "200"}

    def read(self, directory):
        path = one(directory, "profile_export_aiperf.json")
        if path is None:
            return {}
        figures = json.loads(path.read_text())

        def count(name):
            return int((figures.get(name) or {}).get("avg") or 0)
        return {"ok": count("request_count"), "failed": count("error_request_count"),
                "ttft": pair(figures.get("time_to_first_token"), "p50", "p99"), "itl": pair(figures.get("inter_token_latency"), "p50", "p99"),
                "e2e": pair(figures.get("request_latency"), "p50", "p99"), "icl": pair(figures.get("inter_chunk_latency"), "p50", "p99")}


class GuideLLM(Tool):
    name = "guidellm"

    def command(self, program, url, load):
        return [str(program), "run", "--backend", f"kind=openai_http,target={url},model=sim,request_format=/v1/chat/completions",
                "--profile", f"kind=concurrent,streams={load.streams}", "--constraint", f"kind=max_requests,count={load.requests}",
                "--tokenizer", f"kind=hf_auto,model={load.tokenizer}", "--data", f"kind=synthetic_text,prompt_tokens=4,output_tokens={TOKENS}",
                "--output", f"kind=json,path={load.directory / 'guidellm.json'}", "--disable-console"], OFFLINE

    def read(self, directory):
        path = one(directory, "guidellm.json")
        if path is None:
            return {}
        benchmark = json.loads(path.read_text())["benchmarks"][0]
        metrics = benchmark["metrics"]

        def figure(name, factor=1.0):
            return pair((metrics.get(name) or {}).get("successful", {}).get("percentiles"), "p50", "p99", factor)
        totals = metrics["request_totals"]
        return {"ok": totals["successful"], "failed": totals["errored"] + totals["incomplete"],
                "ttft": figure("time_to_first_token_ms"), "itl": figure("inter_token_latency_ms"), "e2e": figure("request_latency", 1e3)}


class InferencePerf(Tool):
    name = "inference-perf"

    def command(self, program, url, load):
        config = {
            "api": {"type": "chat", "streaming": True},
            # The only kind of data that works for chats without a download and has a length of the answers.
            "data": {"type": "shared_prefix", "shared_prefix": {"num_groups": 1, "num_prompts_per_group": 10, "system_prompt_len": 2,
                                                                "question_len": 4, "output_len": TOKENS}},
            "load": {"type": "concurrent", "stages": [{"num_requests": load.requests, "concurrency_level": load.streams}],
                     "worker_max_concurrency": max(100, load.streams)},
            "server": {"type": "vllm", "model_name": "sim", "base_url": url, "ignore_eos": True},
            "tokenizer": {"pretrained_model_name_or_path": str(load.tokenizer)},
            "report": {"request_lifecycle": {"summary": True, "per_stage": False, "percentiles": [50, 99]}},
            "storage": {"local_storage": {"path": str(load.directory / "reports")}},
        }
        # JSON is valid YAML.
        path = load.directory / "inference-perf.yml"
        path.write_text(json.dumps(config, indent=1))
        return [str(program), "--config_file", str(path)], OFFLINE

    def read(self, directory):
        path = one(directory, "summary_lifecycle_metrics.json")
        if path is None:
            return {}
        report = json.loads(path.read_text())
        successes = report["successes"]
        latency = successes.get("latency") or {}

        def figure(name):
            return pair(latency.get(name), "median", "p99", 1e3)
        return {"ok": successes["count"], "failed": report["failures"]["count"], "ttft": figure("time_to_first_token"),
                "itl": figure("inter_token_latency"), "e2e": figure("request_latency"), "tpot": figure("time_per_output_token")}


TOOLS = {tool.name: tool for tool in (Streamstress(), AIPerf(), GuideLLM(), InferencePerf(), Locust(), K6())}
