"""What stands before every answer: security headers, the Host check, and errors in one shape."""

from __future__ import annotations

import hmac
import ipaddress
import traceback
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog
from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from sse_starlette.sse import SendTimeoutError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import Response

from qingtu.errors import ConfigError, NotFound, QingtuError, RetryLater, Undecided, halves
from qingtu.wrong_values import sentence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "worker-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = [
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
_LOG: Final = structlog.get_logger("web")
BODY_BYTES: Final = 1024 * 1024
"""Largest body of an act."""


class ApiError(HTTPException):
    """An answer that says what is wrong in both languages.

    Attributes:
        code: for programs.
        zh: for people.
        en: the same.
    """

    def __init__(self, status: int, code: str, zh: str, en: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, en, dict(headers or {}))
        self.code, self.zh, self.en = code, zh, en


class Guard:
    """Outermost ASGI layer.

    Args:
        app: what is guarded.
        loopback: the server listens on loopback only; then only names of this machine are answered, so that a page of
            another site cannot read us under a name that it points here (DNS rebinding).
        tokens: token → person; acts (POST) are answered to them alone.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool, tokens: Mapping[str, str]) -> None:
        self._app = app
        self._loopback = loopback
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            # GET without its body, everywhere: no endpoint needs to know of it.
            scope, send = {**scope, "method": "GET"}, _bodiless(send)
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                present = {name.lower() for name, _ in message["headers"]}
                added = [(name, value) for name, value in _HEADERS if name not in present]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            receive = self._admit(scope, receive)
            await self._app(scope, receive, guarded)
        except ApiError as refusal:
            if started:
                raise
            answer = _answer(refusal.status_code, refusal.code, refusal.zh, refusal.en, headers=refusal.headers)
            await answer(scope, receive, guarded)
        except SendTimeoutError:
            _LOG.info("slow_client_cut", path=scope["path"])
        except Exception:
            # Without local variables, which a pretty traceback would print: they hold payloads and tokens.
            _LOG.error("request_failed", path=scope["path"], traceback=traceback.format_exc())
            if started:
                raise  # the server cuts the connection, so that half an answer is not taken for a whole one
            await _answer(500, "internal", "服务内部错误, 详见日志", "internal error, see the log")(
                scope, receive, guarded
            )

    def _admit(self, scope: Scope, receive: Receive) -> Receive:
        """Refuse what may not ask; bound the body of what may act."""
        if self._loopback and not _is_local(_host_of(scope)):
            zh, en = "请用 localhost 或 127.0.0.1 访问本服务", "this service answers to localhost and 127.0.0.1 only"
            raise ApiError(421, "wrong_host", zh, en)
        if scope["method"] != "POST":
            return receive
        # Before a byte of the body is read: who may not act may not fill our memory either.
        person_of(Request(scope), self._tokens)
        return _bounded(scope, receive)


def _bodiless(send: Send) -> Send:
    """Send only the head; a stream, which has no end of its own, is told by the server that nobody listens."""
    ended = False

    async def sent(message: Message) -> None:
        nonlocal ended
        if message["type"] != "http.response.body":
            await send(message)
        elif not ended:
            ended = True
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return sent


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Let at most BODY_BYTES of a body through; acts are short texts and lists of ids."""
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    left = BODY_BYTES
    too_large = ApiError(413, "too_large", "请求过大", f"the body is larger than {BODY_BYTES} bytes")
    if not declared.isdigit() or int(declared) > left:
        raise too_large

    async def bounded() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise too_large
        return message

    return bounded


def _host_of(scope: Scope) -> str:
    values = [value for name, value in scope["headers"] if name == b"host"]
    return values[0].decode("latin-1") if len(values) == 1 else ""


def _is_local(host: str) -> bool:
    name = host.lower()
    return is_loopback(name[1 : name.find("]")] if name.startswith("[") else name.partition(":")[0])


def is_loopback(address: str) -> bool:
    """Return whether an address reaches this machine only."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _answer(
    status: int, code: str, zh: str, en: str, *, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    body = orjson.dumps({"error": {"code": code, "zh": zh, "en": en, **more}})
    kept = {name: value for name, value in (headers or {}).items() if name.lower() != "content-length"}
    return Response(body, status, {"Cache-Control": "no-store", **kept}, "application/json")


# ------------------------------------------------------------------------------------------------------- errors

_STATUS: Final[Mapping[int, tuple[str, str, str]]] = {
    404: ("not_found", "没有这个地址", "there is no such address"),
    405: ("bad_method", "此地址不支持该方法", "this address does not take that method"),
}


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    if isinstance(error, ApiError):
        return _answer(error.status_code, error.code, error.zh, error.en, headers=error.headers)
    del request
    code, zh, en = _STATUS.get(error.status_code, ("http", f"错误 {error.status_code}", str(error.detail)))
    return _answer(error.status_code, code, zh, en, headers=error.headers)


async def _bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    del request
    found = [(".".join(map(str, e["loc"])), _sentence(e)) for e in error.errors()]
    fields = [{"where": where, "message": " / ".join(dict.fromkeys(words))} for where, words in found]
    zh, en = ("; ".join(f"{where}: {words[i]}" for where, words in found)[:500] for i in (0, 1))
    return _answer(422, "bad_request", f"请求有误: {zh}", f"the request is wrong: {en}", fields=fields)


def _sentence(detail: Any) -> tuple[str, str]:
    """Return what is wrong with a value in Chinese and English; rare kinds are told in English twice."""
    if detail["type"] == "extra_forbidden":
        return "没有此字段", "there is no such field"
    return halves(sentence(detail))


async def _not_found(request: Request, error: Exception) -> Response:
    del request
    zh, en = halves(str(error))
    return _answer(404, "not_found", f"没有找到: {zh}", en)


async def _later(request: Request, error: Exception) -> Response:
    assert isinstance(error, RetryLater)
    del request
    headers = {"Retry-After": str(max(1, round(error.retry_after_s)))}
    return _answer(
        503,
        "retry_later",
        f"暂时无法执行, 请稍后重试: {error}",
        f"try again later: {halves(str(error))[1]}",
        headers=headers,
    )


async def _undecided(request: Request, error: Exception) -> Response:
    del request
    return _answer(504, "undecided", *halves(str(error)))


async def _refused(request: Request, error: Exception) -> Response:
    del request
    return _answer(409, "refused", *halves(str(error)))


async def _config(request: Request, error: Exception) -> Response:
    assert isinstance(error, ConfigError)
    del request
    problems = [{"file": p.file, "line": p.line, "key": p.key, "value": p.value, "message": p.message}
                for p in error.problems]  # fmt: skip
    first = str(error.problems[0]) if error.problems else ""
    zh = f"目录有 {len(problems)} 处错误, 仍使用原目录: {first}"
    en = f"the catalogue has {len(problems)} problems, the old one stays in use: {first}"
    return _answer(409, "bad_catalogue", zh, en, problems=problems)


def handle_errors(app: FastAPI) -> None:
    """Give all errors one shape: ``{"error": {"code", "zh", "en"}}``."""
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_exception_handler(NotFound, _not_found)
    app.add_exception_handler(RetryLater, _later)
    app.add_exception_handler(ConfigError, _config)
    app.add_exception_handler(Undecided, _undecided)
    app.add_exception_handler(QingtuError, _refused)


# ----------------------------------------------------------------------------------------------------- who acts


def person_of(request: Request, tokens: Mapping[str, str]) -> str:
    """Return the person whose token a request carries.

    Args:
        request: with ``Authorization: Bearer TOKEN``.
        tokens: token → person.

    Raises:
        ApiError: 401 without a token, 403 with one that is not ours.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise ApiError(401, "no_token", "需要值班口令", "a duty token is needed",
                       headers={"WWW-Authenticate": "Bearer"})  # fmt: skip
    found = None
    for known, person in tokens.items():  # all of them: the time taken tells nothing about which was close
        if hmac.compare_digest(known.encode(), token.encode()):
            found = person
    if found is None:
        raise ApiError(403, "bad_token", "值班口令无效", "this duty token is not known")
    return found
