"""A small WebSocket gateway that loses nothing.

1. It subscribes before it accepts the socket, and waits until Redis confirms the subscription.
2. It sends a live event only if the event is the next one. Otherwise it reads the session's log.
3. It resumes: a client that reconnects names its last position, and gets what the log has after it.

It leaves out what a gateway in production also needs: a limit on what waits for a slow client, limits on connections and
messages, takeover by a second socket, draining, and gaps (positions that the log no longer has).
"""

import asyncio
import json
import os
import re

import jwt
import redis.asyncio as redis
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

SECRET = os.environ["JWT_SECRET"]
PAGE = 500
bus = redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"), decode_responses=True)


def position(text):
    """Returns "<generation>-<sequence>" as a pair of numbers, which compare as the log orders them."""
    generation, _, sequence = text.partition("-")
    return int(generation), int(sequence or 0)


async def admit(socket, request):
    """Runs before the socket is accepted. Returns a response that refuses it, or None."""
    path = request.path.partition("?")[0]
    if path in ("/health", "/ready"):
        return socket.respond(200, "ok\n")
    named = re.fullmatch(r"/[^/]+/ws/([0-9a-f-]{36})", path)
    if not named:
        return socket.respond(404, "expected /{agent_id}/ws/{session_id}\n")
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return socket.respond(401, "a bearer token is needed\n")
    try:
        claims = jwt.decode(token, SECRET, algorithms=["HS256"])
    except jwt.InvalidTokenError as error:
        return socket.respond(403, f"{error}\n")
    if claims.get("session_id") != named[1]:
        return socket.respond(403, "the token is for another session\n")
    try:
        socket.last = position(request.headers.get("Last-Event-ID", "0"))
    except ValueError:
        return socket.respond(400, "Last-Event-ID is not a position\n")
    socket.session = named[1]
    socket.channel = bus.pubsub()
    try:
        await socket.channel.subscribe(f"session:{socket.session}:down")
        confirmed = await socket.channel.get_message(timeout=5)
    except redis.RedisError:
        confirmed = None
    return None if confirmed else socket.respond(503, "Redis does not answer\n")


async def send(socket, frame):
    """Sends an event. Two kinds are between server and gateway: a fence begins a query, `closed` ends the session."""
    event = json.loads(frame)
    socket.last = position(event["id"])
    if event["type"] == "closed":
        await socket.close(1000, "session closed")
    elif event["type"] == "gap":
        await socket.send(json.dumps({"type": "gap", "from": event["from"], "to": event["id"]}))
    elif event["type"] != "fence":
        await socket.send(frame)


async def replay(socket):
    """Sends what the log has after the last event that was sent."""
    log = f"session:{socket.session}:log"
    while entries := await bus.xrange(log, min="(%d-%d" % socket.last, count=PAGE):
        for _, fields in entries:
            await send(socket, fields["e"])


async def forward(socket):
    await replay(socket)
    if "Last-Event-ID" in socket.request.headers:
        await socket.send(json.dumps({"type": "resumed", "to": "%d-%d" % socket.last}))
    async for message in socket.channel.listen():
        # A second confirmation means that the connection to Redis broke and came back: events may be missing.
        if message["type"] == "subscribe":
            await replay(socket)
        elif message["type"] == "message":
            generation, sequence = position(json.loads(message["data"])["id"])
            if (generation, sequence) == (socket.last[0], socket.last[1] + 1):
                await send(socket, message["data"])
            elif (generation, sequence) > socket.last:
                await replay(socket)


async def converse(socket):
    async def forward_and_close():
        try:
            await forward(socket)
        except ConnectionClosed:
            pass
        except redis.RedisError:
            await socket.close(1011, "Redis failed")

    forwarding = asyncio.create_task(forward_and_close())
    try:
        async for message in socket:
            await bus.publish(f"session:{socket.session}:up", message)
    except ConnectionClosed:
        pass
    finally:
        forwarding.cancel()
        await socket.channel.aclose()


async def main():
    port = int(os.environ.get("PORT", "4040"))
    async with serve(converse, "127.0.0.1", port, process_request=admit, max_size=65536) as server:
        print(f"listening on port {server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


asyncio.run(main())
