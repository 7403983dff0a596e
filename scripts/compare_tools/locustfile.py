"""A user of Locust who reads streamed answers. Locust has no notion of a token, so the user reports each time as a request of its own."""

import json
import os
import time

from locust import HttpUser, events, task
from locust.exception import StopUser

ROUNDS, STREAMS = int(os.environ["ROUNDS"]), int(os.environ["STREAMS"])
BODY = {"model": "sim", "stream": True, "max_tokens": int(os.environ["MAX_TOKENS"]),
        "messages": [{"role": "user", "content": "This is a question"}]}


def report(name, seconds, exception=None):
    events.request.fire(request_type="SSE", name=name, response_time=seconds * 1e3, response_length=0, exception=exception, context={})


class Reader(HttpUser):
    left = ROUNDS
    finished = 0

    @task
    def ask(self):
        began = before = time.perf_counter()
        first = True
        with self.client.post("/v1/chat/completions", json=BODY, stream=True, name="head", catch_response=True) as response:
            for line in response.iter_lines():
                if not line.startswith(b"data: {"):
                    continue
                now = time.perf_counter()
                chunk = json.loads(line[6:])
                if chunk.get("choices") and chunk["choices"][0]["delta"].get("content"):
                    report("ttft" if first else "itl", now - before)
                    first, before = False, now
        report("e2e", time.perf_counter() - began)
        self.left -= 1
        if self.left == 0:
            Reader.finished += 1
            if Reader.finished == STREAMS:
                self.environment.runner.quit()
            raise StopUser
