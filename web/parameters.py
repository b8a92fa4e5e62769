"""Query parameters that an address does not have: a slip in a name must not answer another question.

One dependency for all routers; what an address takes is what its function declares, as in ``/openapi.json``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastapi import Request  # noqa: TC002 - FastAPI reads annotations at run time
from fastapi.routing import APIRoute
from pydantic import BaseModel

from web.guard import ApiError
from web.unknown import close, meant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi.dependencies.models import Dependant

_SHOWN: Final = 64
_OURS: Final = "/api/"


async def declared_alone(request: Request) -> None:
    """Refuse a query with a parameter that the address does not declare.

    It waits for nothing, and is asynchronous so that no thread is asked for it.
    Addresses outside of /api are left alone: what asks for metrics and health adds parameters of its own.

    Raises:
        ApiError: 422 unknown_parameter; names it and those that there are.
    """
    if not request.query_params or not request.url.path.startswith(_OURS):
        return
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    allowed = tuple(dict.fromkeys(_names(route.dependant)))
    for name in request.query_params:
        if name not in allowed:
            zh, en = meant(close(name, allowed))
            listed = ", ".join(allowed)
            has_zh, has_en = (f"可用: {listed}", f"allowed: {listed}") if allowed else ("此地址没有参数", "it has none")
            raise ApiError(
                422, "unknown_parameter", f"没有参数 {name[:_SHOWN]!r}{zh} ({has_zh})",
                f"this address has no parameter {name[:_SHOWN]!r}{en} ({has_en})",
            )  # fmt: skip


def _names(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (info.alias or name for name, info in kind.model_fields.items())
        else:
            yield field.alias
    for one in dependant.dependencies:
        yield from _names(one)
