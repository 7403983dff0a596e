"""A WebSocket gateway as it is often written first. It loses tokens.

It accepts the socket, then subscribes. The client submits its query as soon as the socket is open, and Redis drops
every event that it publishes before the subscription. README.md shows how a load test finds this.
"""

import asyncio
import os

import jwt
import redis.asyncio as redis
from websockets.asyncio.server import serve

SECRET = os.environ["JWT_SECRET"]
bus = redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"), decode_responses=True)


async def forward(socket, session):
    async with bus.pubsub() as channel:
        await channel.subscribe(f"session:{session}:down")
        async for message in channel.listen():
            if message["type"] == "message":
                await socket.send(message["data"])


async def converse(socket):
    session = socket.request.path.partition("?")[0].rsplit("/", 1)[-1]
    token = socket.request.headers["Authorization"].removeprefix("Bearer ")
    if jwt.decode(token, SECRET, algorithms=["HS256"])["session_id"] != session:
        return await socket.close(1008, "wrong session")
    forwarding = asyncio.create_task(forward(socket, session))
    async for message in socket:
        await bus.publish(f"session:{session}:up", message)
    forwarding.cancel()


async def main():
    async with serve(converse, "127.0.0.1", int(os.environ.get("PORT", "4040"))) as server:
        print(f"listening on port {server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


asyncio.run(main())
