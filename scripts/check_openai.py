#!/usr/bin/env python3
"""Checks the simulator with OpenAI's own Python client: chat, Responses, Responses in the background and Responses over a WebSocket.

Usage: check_openai.py PROGRAM [ARGUMENTS...]   for example: check_openai.py target/debug/streamstress server

Starts the program with --bus memory on a free port and ends it afterwards. Needs the package openai[realtime]; scripts/check_openai.sh
installs it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import openai

TEXT = "This is a simulated answer that streams word by word so that every single token can be counted."
KEY = "sk-check"
FAST = {"streamstress": {"itl_ms": 2}}


def start(program):
    """Starts the simulator and waits until it is ready. Returns the process and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*program, "--bus", "memory", "--host", "127.0.0.1", "--port", str(port), "--drain-seconds", "0"]
    environment = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
    process = subprocess.Popen(command, env={**environment, "SERVER_API_KEY": KEY, "RUST_LOG": "warn"})
    address = f"http://127.0.0.1:{port}"
    for _ in range(200):
        if process.poll() is not None:
            sys.exit(f"check_openai: the simulator ended with {process.returncode}")
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address + "/ready", timeout=1):
                return process, address
        except OSError:
            time.sleep(0.05)
    process.kill()
    sys.exit("check_openai: the simulator did not become ready within ten seconds")


def check(name, condition, seen=""):
    if not condition:
        raise AssertionError(f"{name}: {seen}")


def models(client):
    check("models", [model.id for model in client.models.list()] == ["sim"])


def chat(client):
    messages = [{"role": "user", "content": "say hello"}]
    whole = client.chat.completions.create(model="sim", messages=messages, extra_body=FAST)
    check("text", whole.choices[0].message.content == TEXT, whole)
    check("usage", (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (2, 18), whole.usage)
    stream = client.chat.completions.create(
        model="sim", messages=messages, stream=True, stream_options={"include_usage": True}, max_completion_tokens=5, extra_body=FAST
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    check("streamed text", text == "This is a simulated answer", text)
    check("finish", [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length")
    check("streamed usage", chunks[-1].usage.completion_tokens == 5, chunks[-1])
    with client.chat.completions.stream(model="sim", messages=messages, extra_body=FAST) as stream:
        check("accumulated text", stream.get_final_completion().choices[0].message.content == TEXT)


def failed_chat(client):
    """An error inside a stream raises."""
    faults = {"streamstress": {"itl_ms": 2, "faults": [{"kind": "error", "at": 4}]}}
    seen = 0
    try:
        for _ in client.chat.completions.create(model="sim", messages=[{"role": "user", "content": "x"}], stream=True, extra_body=faults):
            seen += 1
    except openai.APIError as error:
        check("chunks before the error", seen == 4, seen)
        check("message", "asked for this error" in error.message, error.message)
        return
    raise AssertionError("the error inside the stream was not seen")


def completions(client):
    answer = client.completions.create(model="sim", prompt="x", max_tokens=3, extra_body=FAST)
    check("text", answer.choices[0].text == "This is a", answer)


def responses(client):
    first = client.responses.create(model="sim", input="say hello", extra_body=FAST)
    check("text", (first.status, first.output_text) == ("completed", TEXT), first)
    with client.responses.stream(model="sim", input="and again", previous_response_id=first.id, extra_body=FAST) as stream:
        events = list(stream)
        final = stream.get_final_response()
    check("numbers", [event.sequence_number for event in events] == list(range(len(events))))
    check("chained", (final.output_text, final.usage.input_tokens) == (TEXT, 2 + 18 + 2), final.usage)
    check("kept", client.responses.retrieve(first.id).output_text == TEXT)
    client.responses.delete(first.id)
    try:
        client.responses.retrieve(first.id)
    except openai.NotFoundError:
        return
    raise AssertionError("a deleted response was found")


def background(client):
    slow = {"streamstress": {"tokens": 40, "itl_ms": 10}}
    stream = client.responses.create(model="sim", input="x", background=True, stream=True, extra_body=slow)
    seen = []
    for event in stream:
        seen.append(event)
        if len(seen) == 10:
            break
    stream.close()
    rest = list(client.responses.retrieve(seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number))
    numbers = [event.sequence_number for event in [*seen, *rest]]
    check("resumed", numbers == list(range(len(numbers))), numbers)
    text = "".join(event.delta for event in [*seen, *rest] if event.type == "response.output_text.delta")
    check("text", rest[-1].type == "response.completed" and rest[-1].response.output_text == text, text)
    running = client.responses.create(model="sim", input="x", background=True, extra_body={"streamstress": {"tokens": 500}})
    check("cancelled", client.responses.cancel(running.id).status == "cancelled")


def sockets(client):
    with client.responses.connect() as connection:
        previous = None
        for turn in range(3):
            connection.response.create(model="sim", input="one more", store=False, previous_response_id=previous)
            text, final = "", None
            for event in connection:
                if event.type == "response.output_text.delta":
                    text += event.delta
                if event.type == "response.completed":
                    final = event.response
                    break
                check("no error", event.type != "error", event)
            check(f"turn {turn}", text == TEXT and final.previous_response_id == previous, final)
            previous = final.id
        connection.response.create(model="sim", input="x", previous_response_id="resp_unknown")
        error = next(iter(connection))
        check("unknown response", (error.type, error.error.code) == ("error", "previous_response_not_found"), error)


def wrong_key(client):
    try:
        client.with_options(api_key="sk-wrong").models.list()
    except openai.AuthenticationError as error:
        check("code", error.code == "invalid_api_key", error)
        return
    raise AssertionError("a wrong key was accepted")


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    process, address = start(sys.argv[1:])
    try:
        os.environ["NO_PROXY"] = "127.0.0.1"
        client = openai.OpenAI(api_key=KEY, base_url=address + "/v1", max_retries=0, timeout=20)
        for part in (models, chat, failed_chat, completions, responses, background, sockets, wrong_key):
            began = time.monotonic()
            part(client)
            print(f"ok  {part.__name__:12} {time.monotonic() - began:5.2f} s", flush=True)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=20)
    check("exit code of the simulator", code == 0, code)
    print(f"openai {openai.__version__} and the simulator agree")


if __name__ == "__main__":
    main()
