"""A backend of each kind that the target files in this directory describe. It needs Python 3.9 or later and no package.

    python3 examples/targets/server.py --port 8000

- WebSocket: POST /sessions creates a session, GET /ws/SESSION upgrades, messages are JSON with a type.
  POST /ws/SESSION/ask asks over HTTP, and the answer comes over the session's WebSocket.
- SSE: POST /chats/CHAT/messages streams an answer, GET /chats/CHAT/messages/ID/stream resumes it after Last-Event-ID.
- JSON lines: POST /generate streams an answer.
- GET /stopped returns how many answers were stopped.

With --cut-after N, each answer's first connection breaks after N tokens. With --drop N, token N of each answer is never sent. With
--repeat N, a resumed answer begins with the last N tokens that were sent before. With --api-key KEY, POST /sessions, /ws/SESSION/ask and
/generate need the header X-Api-Key. With --late-ms N, the response to /ws/SESSION/ask comes N milliseconds later. With --go-on, the
numbers of a WebSocket session go on with its next answer. With --close, the connection ends with each answer.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import re
import secrets
import struct

WORDS = "This is an answer that streams word by word so that every single token can be counted at the end .".split()
MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
options = argparse.Namespace(stopped=0)
sessions = {}
sockets = {}
answers = {}
# The last number of each session.
numbers = {}


class Answer:
    """The tokens of an answer, from 1. They appear one after another, whether or not somebody reads them."""

    def __init__(self, session=None):
        # The number before the first token's.
        self.before = numbers.get(session, 0) if options.go_on else 0
        numbers[session] = self.before + options.tokens + 1
        self.tokens = []
        self.is_stopped = False
        self.was_cut = False
        self.changed = asyncio.Condition()
        self.task = asyncio.create_task(self.produce())

    async def produce(self):
        for index in range(options.tokens):
            await asyncio.sleep(options.delay_ms / 1000)
            async with self.changed:
                if self.is_stopped:
                    return
                self.tokens.append(WORDS[index % len(WORDS)] + " ")
                self.changed.notify_all()

    async def stop(self):
        options.stopped += 1
        async with self.changed:
            self.is_stopped = True
            self.changed.notify_all()

    def is_over(self):
        return self.is_stopped or len(self.tokens) == options.tokens

    async def after(self, number):
        """Yields each token behind `number` with its own number. Raises ConnectionAbortedError where the connection is to be cut."""
        while True:
            async with self.changed:
                await self.changed.wait_for(lambda: len(self.tokens) > number or self.is_over())
            if self.is_stopped or (self.is_over() and len(self.tokens) == number):
                return
            number += 1
            if number != options.drop:
                yield number, self.tokens[number - 1]
            if number == options.cut_after and not self.was_cut:
                self.was_cut = True
                raise ConnectionAbortedError


async def read_request(reader):
    """Returns method, path, headers and body. None at the end of the connection."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    method, path, _ = head[0].split(" ", 2)
    headers = {}
    for line in filter(None, head[1:]):
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return method, path, headers, json.loads(body) if body else None


def respond(writer, status, value):
    body = json.dumps(value).encode()
    writer.write(f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


class Chunks:
    """A response whose length is not known at its start."""

    def __init__(self, writer, kind):
        self.writer = writer
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())

    async def send(self, text):
        data = text.encode()
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()

    async def end(self):
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()


# WebSocket


async def read_frame(reader):
    """Returns the opcode and the payload of a frame. The client sends no fragments."""
    first, second = await reader.readexactly(2)
    length = second & 127
    if length == 126:
        (length,) = struct.unpack(">H", await reader.readexactly(2))
    elif length == 127:
        (length,) = struct.unpack(">Q", await reader.readexactly(8))
    mask = await reader.readexactly(4)
    payload = await reader.readexactly(length)
    return first & 15, bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def send_frame(writer, opcode, payload):
    length = len(payload)
    size = bytes([length]) if length < 126 else struct.pack(">BH", 126, length)
    writer.write(bytes([128 | opcode]) + size + payload)


def send_json(writer, **message):
    send_frame(writer, 1, json.dumps(message).encode())


async def play_over_websocket(writer, request, answer, after):
    try:
        async for number, text in answer.after(after):
            send_json(writer, type="token", request_id=request, seq=answer.before + number, content=text)
            await writer.drain()
        kind = "stopped" if answer.is_stopped else "done"
        usage = {"output_tokens": len(answer.tokens)}
        send_json(writer, type=kind, request_id=request, seq=answer.before + len(answer.tokens) + 1, usage=usage)
        await writer.drain()
        if options.close:
            send_frame(writer, 8, struct.pack(">H", 1000))
            await writer.drain()
            writer.close()
    except ConnectionError:
        writer.transport.abort()


async def handle_message(writer, session, message):
    request = message.get("request_id")
    if message["type"] == "hello":
        send_json(writer, type="ready", server="example")
        send_json(writer, type="ping")
    elif message["type"] == "ask":
        answers[request] = Answer(session)
        send_json(writer, type="accepted", request_id=request)
        asyncio.create_task(play_over_websocket(writer, request, answers[request], 0))
    elif message["type"] == "resume" and request in answers:
        after = max(0, message["after"] - options.repeat)
        asyncio.create_task(play_over_websocket(writer, request, answers[request], after))
    elif message["type"] == "stop" and request in answers:
        await answers[request].stop()
    elif message["type"] != "pong":
        send_json(writer, type="error", request_id=request, code="unknown", message=f"unexpected {message['type']}")
    await writer.drain()


async def serve_websocket(reader, writer, session, headers):
    if headers.get("authorization") != f"Bearer {sessions.get(session)}":
        respond(writer, "401 Unauthorized", {"error": "wrong access token"})
        return
    if headers.get("sec-websocket-protocol") != "chat.v1":
        respond(writer, "400 Bad Request", {"error": "expected the subprotocol chat.v1"})
        return
    accept = base64.b64encode(hashlib.sha1((headers["sec-websocket-key"] + MAGIC).encode()).digest()).decode()
    writer.write(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Protocol: chat.v1\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()
    )
    sockets[session] = writer
    while True:
        opcode, payload = await read_frame(reader)
        if opcode == 8:
            send_frame(writer, 8, payload[:2])
            return
        if opcode == 9:
            send_frame(writer, 10, payload)
        elif opcode == 1:
            await handle_message(writer, session, json.loads(payload))


# Server-sent events and JSON lines


async def play_events(writer, answer, after):
    chunks = Chunks(writer, "text/event-stream")
    await chunks.send(": welcome\n\n")
    async for number, text in answer.after(after):
        await chunks.send(f"event: delta\nid: {number}\ndata: {json.dumps({'delta': text})}\n\n")
    kind = "cancelled" if answer.is_stopped else "done"
    data = json.dumps({"usage": {"tokens": len(answer.tokens)}})
    await chunks.send(f"event: {kind}\nid: {len(answer.tokens) + 1}\ndata: {data}\n\n")
    await chunks.end()


async def play_lines(writer, answer):
    chunks = Chunks(writer, "application/x-ndjson")
    async for _, text in answer.after(0):
        await chunks.send(json.dumps({"response": text, "done": False}) + "\n")
    await chunks.send(json.dumps({"response": "", "done": True, "eval_count": len(answer.tokens)}) + "\n")
    await chunks.end()


async def handle(reader, writer, method, path, headers, body):
    path, _, _ = path.partition("?")
    needs_key = options.api_key and method == "POST" and re.fullmatch("/sessions|/generate|/ws/.*/ask", path)
    if needs_key and headers.get("x-api-key") != options.api_key:
        respond(writer, "401 Unauthorized", {"error": f"wrong key {headers.get('x-api-key')}"})
    elif (method, path) == ("POST", "/sessions"):
        session = secrets.token_hex(8)
        sessions[session] = secrets.token_urlsafe(24)
        respond(writer, "201 Created", {"session": {"id": session, "user": body["user"]}, "access_token": sessions[session]})
    elif method == "POST" and (match := re.fullmatch("/ws/([0-9a-f]+)/ask", path)):
        request = secrets.token_hex(4)
        answers[request] = Answer(match[1])
        asyncio.create_task(play_over_websocket(sockets[match[1]], request, answers[request], 0))
        await asyncio.sleep(options.late_ms / 1000)
        respond(writer, "202 Accepted", {"message_id": request})
    elif match := re.fullmatch("/ws/([0-9a-f]+)", path):
        await serve_websocket(reader, writer, match[1], headers)
        raise ConnectionAbortedError
    elif method == "POST" and re.fullmatch("/chats/[^/]+/messages", path):
        answer = answers[body["message_id"]] = Answer()
        await play_events(writer, answer, 0)
    elif match := re.fullmatch("/chats/[^/]+/messages/([^/]+)/(stream|cancel)", path):
        answer = answers.get(match[1])
        if answer is None:
            respond(writer, "404 Not Found", {"error": "no such message"})
        elif match[2] == "cancel":
            await answer.stop()
            respond(writer, "200 OK", {"status": "cancelled"})
        else:
            await play_events(writer, answer, max(0, int(headers.get("last-event-id", 0)) - options.repeat))
    elif (method, path) == ("GET", "/stopped"):
        respond(writer, "200 OK", options.stopped)
    elif (method, path) == ("POST", "/generate"):
        if not body.get("prompt"):
            respond(writer, "422 Unprocessable Entity", {"error": "no prompt"})
        else:
            await play_lines(writer, Answer())
    else:
        respond(writer, "404 Not Found", {"error": f"{method} {path} does not exist"})


async def connection(reader, writer):
    try:
        while request := await read_request(reader):
            await handle(reader, writer, *request)
            await writer.drain()
            if options.close:
                return
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.transport.abort() if options.cut_after else writer.close()


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--delay-ms", type=float, default=20)
    parser.add_argument("--cut-after", type=int, default=0)
    parser.add_argument("--drop", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=0)
    parser.add_argument("--late-ms", type=float, default=0)
    parser.add_argument("--go-on", action="store_true")
    parser.add_argument("--close", action="store_true")
    parser.add_argument("--api-key")
    parser.parse_args(namespace=options)
    server = await asyncio.start_server(connection, "127.0.0.1", options.port)
    print(f"listening on port {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


try:
    asyncio.run(main())
except KeyboardInterrupt:
    pass
