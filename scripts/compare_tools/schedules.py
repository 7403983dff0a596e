"""The schedules that every tool is run against. All answers are planned by the simulator, so the tools need no special request."""

import json
from dataclasses import dataclass

TOKENS = 60
TTFT_MS = 200
ITL_MS = 20
# Of the answers with a defect, one in so many.
EVERY = 20


@dataclass(frozen=True)
class Schedule:
    name: str
    meaning: str
    # Fields of `streamstress` in docs/openai.md.
    defaults: dict


def fault(kind, at, **fields):
    return {"kind": kind, "at": at, **fields}


SCHEDULES = [
    Schedule("steady", f"{TOKENS} tokens, the first after {TTFT_MS} ms, then one every {ITL_MS} ms", {}),
    Schedule("stall", "as steady, with a pause of 500 ms before token 30", {"faults": [fault("stall", 30, ms=500)]}),
    Schedule("early-role", "as steady, but the chunk that names the role comes at once, without text", {"role": "early"}),
    Schedule("error", f"as steady; every {EVERY}th answer ends with an error before token 30, status 200",
             {"faults": [fault("error", 30, every=EVERY)]}),
    Schedule("truncated", f"as steady; every {EVERY}th answer ends before token 30, without an error and without [DONE]",
             {"faults": [fault("cut", 30, every=EVERY)]}),
]


def options(schedule):
    """Returns the options of the simulator for this schedule."""
    return ["--ttft-ms", str(TTFT_MS), "--itl-ms", str(ITL_MS), "--tokens", str(TOKENS), "--seed", "1",
            "--openai-defaults", json.dumps(schedule.defaults)]
