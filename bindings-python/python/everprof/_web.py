"""Middleware for web services: the label ``endpoint`` on what is done for a request, and the pull side below the service's own port."""

import base64
import hmac

from . import _everprof, _routes
from ._labels import labels

_PPROF = "/debug/pprof"
_MOST_BODY = 512 << 10
# Routes are few; what a program makes up by itself may not be.
_MOST_KNOWN = 1_000


class _Middleware:
    """`app` with a label ``endpoint`` for each request: the template of its route, such as ``/users/<id>``, as Flask, Django, Starlette
    and FastAPI tell it, or what `endpoint`, called with the request's ``environ`` or ``scope``, returns; none where that is nothing.

    With `pprof=True` it answers below ``/debug/pprof/`` as the option ``serve`` does, to those who have the `token`
    (``Authorization: Bearer``, or the password of a URL) where one is given. Stacks are not for everybody: behind a proxy that lets
    the whole world in, give one.
    """

    def __init__(self, app, *, endpoint=None, pprof=False, token=None):
        self.app = app
        self._endpoint = endpoint or self._route_of(app)
        self._pprof, self._token = pprof, token
        self._known = {}

    def _labels(self, request):
        """The labels of a request, or `None`."""
        try:
            name = self._endpoint(request)
        except Exception:
            # A request that no route can make sense of is the application's to refuse.
            name = None
        if not name:
            return None
        known = self._known.get(name)
        if known is None:
            known = labels(endpoint=name)
            if len(self._known) < _MOST_KNOWN:
                self._known[name] = known
        return known

    def _is_pprof(self, path):
        return self._pprof and (path == _PPROF or path.startswith(_PPROF + "/"))

    def _may(self, authorization):
        if self._token is None:
            return True
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given).decode().partition(":")[2]
            except ValueError:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.encode(), self._token.encode())


_REFUSED = (401, [("content-type", "text/plain; charset=utf-8"), ("www-authenticate", "Bearer, Basic")], b"401 unauthorized\n")


class wsgi(_Middleware):
    __doc__ = _Middleware.__doc__

    def _route_of(self, app):
        return _routes.of_wsgi(app)

    def __call__(self, environ, start_response):
        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        if self._is_pprof(path):
            return self._answer(environ, path, start_response)
        labelled = self._labels(environ)
        if labelled is None:
            return self.app(environ, start_response)
        with labelled:
            result = self.app(environ, start_response)
        wrapper = environ.get("wsgi.file_wrapper")
        is_file = isinstance(wrapper, type) and isinstance(result, wrapper)
        # Servers treat files and lists in their own ways, and nothing is computed for them any more.
        return result if is_file or isinstance(result, (list, tuple)) else _Labelled(result, labelled)

    def _answer(self, environ, path, start_response):
        if not self._may(environ.get("HTTP_AUTHORIZATION", "")):
            status, headers, body = _REFUSED
        else:
            length = environ.get("CONTENT_LENGTH") or "0"
            length = min(int(length), _MOST_BODY + 1) if length.isdigit() else 0
            content = environ["wsgi.input"].read(length) if length else b""
            query = environ.get("QUERY_STRING", "")
            # As it was sent; a server has decoded it.
            status, headers, body = _everprof.Pull(environ["REQUEST_METHOD"], _quoted(path), query, content).wait()
        names = [(name, value) for name, value in headers if name != "content-length"]
        start_response(f"{status} {_reason(status)}", [*names, ("Content-Length", str(len(body)))])
        return [body]


class _Labelled:
    """The parts of an answer, each made with the labels of its request."""

    def __init__(self, result, labelled):
        self._result, self._labels = result, labelled
        self._parts = None

    def __iter__(self):
        return self

    def __next__(self):
        with self._labels:
            if self._parts is None:
                self._parts = iter(self._result)
            return next(self._parts)

    def close(self):
        close = getattr(self._result, "close", None)
        if close is not None:
            with self._labels:
                close()


class asgi(_Middleware):
    __doc__ = _Middleware.__doc__

    def _route_of(self, app):
        return _routes.of_asgi(app)

    async def __call__(self, scope, receive, send):
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        if scope["type"] == "http" and self._is_pprof(scope["path"]):
            return await self._answer(scope, receive, send)
        labelled = self._labels(scope)
        if labelled is None:
            return await self.app(scope, receive, send)
        with labelled:
            return await self.app(scope, receive, send)

    async def _answer(self, scope, receive, send):
        import asyncio

        authorization = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        if not self._may(authorization):
            status, headers, body = _REFUSED
            return await _send(send, status, headers, body)
        content = await _body(receive)
        query = scope.get("query_string", b"").decode("latin-1")
        pull = _everprof.Pull(scope["method"], _quoted(scope["path"]), query, content)
        answer = asyncio.get_running_loop().run_in_executor(None, pull.wait)
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() and answer.result() is not None:
                await _send(send, *answer.result())
        finally:
            # The client went away, or the server wants to end.
            pull.give_up()
            gone.cancel()


async def _body(receive):
    content, more = b"", True
    while more and len(content) <= _MOST_BODY:
        message = await receive()
        content += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    return content


async def _gone(receive):
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send, status, headers, body):
    lines = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    lines = [line for line in lines if line[0] != b"content-length"] + [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


def _quoted(path):
    from urllib.parse import quote

    return quote(path, safe="/")


def _reason(status):
    from http import HTTPStatus

    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
