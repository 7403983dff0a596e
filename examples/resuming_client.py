"""A small client that survives the loss of its socket: it reconnects, names its last position, and continues there.

    python resuming_client.py [--api URL] [--ws URL] [--cut-after N] [QUESTION]

It checks what it receives: every position once and in order, and the digest of the text. --cut-after N breaks the
connection once, after N tokens, to show that nothing is lost. The exit code is 0 if the answer is complete.
"""

import argparse
import json
import random
import re
import sys
import time
import urllib.request
import uuid

import xxhash
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

# What the client does after these close codes. After any other code, or none, it reconnects with a growing delay.
FINAL = {1000: "session closed", 1002: "protocol error", 1003: "binary frame", 1007: "invalid UTF-8",
         1008: "policy", 1009: "message too large", 4001: "taken over by another connection", 4004: "token expired"}


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


class Answer:
    """Checks off one answer, event by event."""

    def __init__(self):
        self.generation, self.sequence = 0, 0
        self.text = ""
        self.digest = xxhash.xxh3_64()
        self.ended = False

    def last(self):
        return f"{self.generation}-{self.sequence}" if self.generation else "0"

    def take(self, event):
        """Returns the text of a new token."""
        generation, sequence = map(int, event["id"].split("-"))
        self.generation = self.generation or generation
        if (generation, sequence) <= (self.generation, self.sequence):
            return ""  # came before the socket was lost
        if (generation, sequence) != (self.generation, self.sequence + 1):
            sys.exit(f"lost: {event['id']} follows {self.last()}")
        self.sequence = sequence
        if event["type"] == "error":
            sys.exit(f"the query failed: {event['code']}: {event['message']}")
        content = event["content"].encode()
        if event["type"] == "token":
            self.digest.update(len(content).to_bytes(4, "little") + content)
        elif event["type"] == "done":
            self.ended = True
            if event.get("digest", self.digest.hexdigest()) != self.digest.hexdigest():
                sys.exit("the text differs from what the server sent")
        return event["content"]


def read(socket, answer, cut_after):
    """Prints tokens until the answer ends or the socket is lost. Breaks the connection after `cut_after` tokens."""
    for frame in socket:
        event = json.loads(frame)
        if event["type"] == "gap":
            sys.exit(f"lost for good: everything after {event['from']} up to {event['to']}")
        if event["type"] in ("token", "done", "error"):
            print(answer.take(event), end="", flush=True)
        if answer.ended or answer.sequence == cut_after:
            return


def delay_after(close, attempt):
    """Returns the delay in seconds before the next attempt, or ends the program."""
    code, reason = (close.code, close.reason) if close else (None, "")
    if code in FINAL:
        sys.exit(f"closed with {code}: {reason or FINAL[code]}")
    if found := re.search(r"reconnect_after_ms=(\d+)", reason):
        return int(found[1]) / 1000
    return min(30, 2**attempt) * random.uniform(0.5, 1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("question", nargs="?", default="Why is the sky blue?")
    parser.add_argument("--api", default="http://127.0.0.1:8080")
    parser.add_argument("--ws", default="ws://127.0.0.1:8081")
    parser.add_argument("--cut-after", type=int)
    args = parser.parse_args()

    session = post(f"{args.api}/session/create", {})
    run = {"query": args.question, "query_id": str(uuid.uuid4())}
    url = f"{args.ws}/example/ws/{session['session_id']}"
    answer, attempt, cut_after = Answer(), 0, args.cut_after
    while not answer.ended and attempt < 8:
        headers = {"Authorization": f"Bearer {session['auth_token']}", "Last-Event-ID": answer.last()}
        try:
            with connect(url, additional_headers=headers) as socket:
                # The socket is open first. A repeat of this call starts nothing, because the query id is the same.
                post(f"{args.api}/session/{session['session_id']}/run", run)
                attempt = 0
                read(socket, answer, cut_after)
                if answer.sequence == cut_after:
                    print("[connection cut]", end="", flush=True)
                    cut_after = None
                    socket.socket.close()
                    continue
            delay = delay_after(socket.protocol.close_rcvd, attempt) if not answer.ended else 0
        except ConnectionClosed as closed:
            delay = delay_after(closed.rcvd, attempt)
        except InvalidStatus as refused:
            if refused.response.status_code < 500:
                sys.exit(f"refused: {refused.response.body.decode(errors='replace')}")
            delay = float(refused.response.headers.get("Retry-After", 1))
        except OSError:
            delay = delay_after(None, attempt)
        attempt += 1
        time.sleep(delay)
    post(f"{args.api}/session/{session['session_id']}/close", {})
    print(f"\n{answer.sequence} events, complete: {answer.ended}, last position {answer.last()}")
    return 0 if answer.ended else 1


if __name__ == "__main__":
    sys.exit(main())
