"""The live stream: server-sent events."""

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response
from sse_starlette import EventSourceResponse

from web.api.answers import sent
from web.context import Ctx
from web.fanout import Fanout, Subscriber
from web.guard import ApiError

router = APIRouter(prefix="/api", tags=["stream"])
SEND_TIMEOUT_S = 15.0
"""A client that takes nothing for so long is cut off."""


@router.get("/stream", response_class=EventSourceResponse, responses=sent("text/event-stream"))
async def stream(request: Request, context: Ctx) -> Response:
    """Events hello, readings, alerts, figures, stations, status. A client that is too slow gets ``reconnect``."""
    del request
    client = context.live.fanout.join(b"retry: 2000\n" + context.hello())
    if client is None:
        raise ApiError(503, "too_many_streams", "实时连接过多", "too many open streams", headers={"Retry-After": "5"})
    # Status tells every two seconds that the link lives, so no pings.
    return EventSourceResponse(_events(context.live.fanout, client), ping=0, send_timeout=SEND_TIMEOUT_S)


async def _events(fanout: Fanout, client: Subscriber) -> AsyncIterator[bytes]:
    try:
        async for data in client.events():
            yield data
    finally:
        fanout.leave(client)
        client.close()
