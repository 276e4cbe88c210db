"""Middleware: labels by route and the pull side, with real frameworks where they are installed."""

import asyncio
import io
import sys
import threading

import pytest

import everprof
from pprof import Pprof


def call_wsgi(app, path, query="", method="GET", body=b"", **more):
    answer = {}

    def start_response(status, headers, error=None):
        answer.update(status=status, headers=dict(headers))

    environ = {
        "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": query, "SERVER_NAME": "localhost",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.version": (1, 0), "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body), "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": False,
        "wsgi.run_once": False, "CONTENT_LENGTH": str(len(body)), **more,
    }  # fmt: skip
    result = app(environ, start_response)
    try:
        answer["body"] = b"".join(result)
    finally:
        getattr(result, "close", lambda: None)()
    return answer


def call_asgi(app, path, query="", headers=(), leave_after=None):
    sent = []

    async def main():
        asked = [{"type": "http.request", "body": b""}]

        async def receive():
            if asked:
                return asked.pop()
            if leave_after is None:
                await asyncio.Event().wait()
            await asyncio.sleep(leave_after)
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": path, "raw_path": path.encode(),
            "root_path": "", "scheme": "http", "query_string": query.encode(), "headers": list(headers), "client": ("c", 1), "server": ("s", 80),
        }  # fmt: skip
        await app(scope, receive, send)

    asyncio.run(main())
    status = next((message["status"] for message in sent if message["type"] == "http.response.start"), None)
    return status, b"".join(message.get("body", b"") for message in sent)


def test_wsgi_without_a_framework():
    def app(environ, start_response):
        start_response("200 OK", [])
        yield repr(everprof.current_labels()).encode()

    plain = everprof.wsgi(app)
    assert call_wsgi(plain, "/a")["body"] == b"{}"
    named = everprof.wsgi(app, endpoint=lambda environ: environ["PATH_INFO"] if environ["PATH_INFO"] != "/x" else 1 / 0)
    assert call_wsgi(named, "/a")["body"] == b"{'endpoint': '/a'}"
    assert call_wsgi(named, "/x")["body"] == b"{}"
    assert everprof.current_labels() == {}


def test_the_pull_side_by_wsgi():
    app = everprof.wsgi(lambda environ, start_response: [b"theirs"], pprof=True)
    assert call_wsgi(app, "/debug")["body"] == b"theirs"
    assert call_wsgi(app, "/debug/pprof/profile")["status"] == "503 Service Unavailable"
    everprof.start(push="off")
    index = call_wsgi(app, "/debug/pprof/")
    assert index["status"] == "200 OK" and b"profile" in index["body"] and index["headers"]["Content-Length"] == str(len(index["body"]))
    profile = call_wsgi(app, "/debug/pprof/profile", "seconds=1")
    assert Pprof(profile["body"]).samples is not None
    assert b"cmdline" in index["body"] and b"python" in call_wsgi(app, "/debug/pprof/cmdline")["body"]
    assert call_wsgi(app, "/debug/pprof/nothing")["status"].startswith("404")
    assert call_wsgi(app, "/debug/pprof/symbol", method="POST", body=b"0x0")["status"] == "200 OK"
    assert call_wsgi(app, "/debug/pprof/symbol", method="POST", body=b"0" * (600 << 10))["status"].startswith("413")
    hidden = everprof.wsgi(lambda environ, start_response: [b"theirs"])
    assert call_wsgi(hidden, "/debug/pprof/")["body"] == b"theirs"
    everprof.stop()


def test_a_token():
    app = everprof.wsgi(lambda environ, start_response: [b"theirs"], pprof=True, token="sesame")
    for wrong in ("", "Bearer", "Bearer other", "Basic ?", "Basic OnNlc2Ft", "Digest sesame"):
        assert call_wsgi(app, "/debug/pprof/", HTTP_AUTHORIZATION=wrong)["status"] == "401 Unauthorized", wrong
    for right in ("Bearer sesame", "Basic OnNlc2FtZQ=="):
        assert call_wsgi(app, "/debug/pprof/profile", HTTP_AUTHORIZATION=right)["status"].startswith("503"), right


def test_the_pull_side_by_asgi():
    async def theirs(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": repr(everprof.current_labels()).encode()})

    app = everprof.asgi(theirs, pprof=True, endpoint=lambda scope: "/x")
    assert call_asgi(app, "/a") == (200, b"{'endpoint': '/x'}")
    everprof.start(push="off")
    status, body = call_asgi(app, "/debug/pprof/profile", "seconds=1")
    assert status == 200 and Pprof(body)
    # Who goes away gives the recording up, and waits for nothing.
    assert call_asgi(app, "/debug/pprof/profile", "seconds=60", leave_after=0.2) == (None, b"")
    locked = everprof.asgi(theirs, pprof=True, token="sesame")
    assert call_asgi(locked, "/debug/pprof/")[0] == 401
    assert call_asgi(locked, "/debug/pprof/", headers=[(b"authorization", b"Bearer sesame")])[0] == 200
    everprof.stop()


def test_flask():
    flask = pytest.importorskip("flask", reason="NOT TESTED: Flask is not installed")
    app = flask.Flask("x")
    app.get("/users/<int:id>")(lambda id: everprof.current_labels())
    app.wsgi_app = everprof.wsgi(app.wsgi_app, pprof=True)
    client = app.test_client()
    assert client.get("/users/7").json == {"endpoint": "/users/<int:id>"}
    assert client.get("/users/x").status_code == 404
    assert client.get("/debug/pprof/profile").status_code == 503


def test_django():
    django = pytest.importorskip("django", reason="NOT TESTED: Django is not installed")
    from django.conf import settings

    if not settings.configured:
        settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x")
        django.setup()
    from django.core.handlers.asgi import ASGIHandler
    from django.core.wsgi import get_wsgi_application
    from django.http import JsonResponse
    from django.urls import path

    globals()["urlpatterns"] = [path("users/<int:id>/", lambda request, id: JsonResponse(everprof.current_labels()))]
    assert b"/users/<int:id>/" in call_wsgi(everprof.wsgi(get_wsgi_application()), "/users/7/")["body"]
    assert call_wsgi(everprof.wsgi(get_wsgi_application()), "/none/")["status"].startswith("404")
    assert b"/users/<int:id>/" in call_asgi(everprof.asgi(ASGIHandler()), "/users/7/")[1]


def test_fastapi():
    fastapi = pytest.importorskip("fastapi", reason="NOT TESTED: FastAPI is not installed")
    app, router = fastapi.FastAPI(), fastapi.APIRouter(prefix="/shop")

    @app.get("/users/{id}")
    async def users(id: int):
        return everprof.current_labels()

    @router.get("/items/{item}")
    def items(item: str):
        return everprof.current_labels()

    app.include_router(router)
    below = fastapi.FastAPI()
    below.get("/deep/{x}")(lambda x: everprof.current_labels())
    app.mount("/below", below)
    app.add_middleware(everprof.asgi)
    for path, route in [("/users/7", "/users/{id}"), ("/shop/items/a", "/shop/items/{item}"), ("/below/deep/1", "/below/deep/{x}")]:
        status, body = call_asgi(app, path)
        assert status == 200 and body.decode() == f'{{"endpoint":"{route}"}}', (path, body)
    assert call_asgi(everprof.asgi(app), "/none")[0] == 404


def test_samples_of_a_request_have_its_route(program):
    pytest.importorskip("flask", reason="NOT TESTED: Flask is not installed")
    done = program(
        """
        import flask
        app = flask.Flask("x")
        @app.get("/slow/<id>")
        def slow(id): burn(0.3); return "x"
        @app.get("/quick")
        def quick(): burn(0.1); return "x"
        app.wsgi_app = everprof.wsgi(app.wsgi_app)
        everprof.start(service="x", rate_hz=250)
        client = app.test_client()
        client.get("/slow/1"); client.get("/quick"); client.get("/slow/2")
        """
    )
    (profile,) = done.profiles()
    of = lambda route: profile.total("cpu", lambda sample: sample["labels"].get("endpoint") == route)
    assert 0.4e9 < of("/slow/<id>") < 0.8e9 and 0.05e9 < of("/quick") < 0.3e9
