"""The template of a request's route, as each framework knows it, before the framework itself has looked for it.

A path itself is never a label: it has the IDs of whoever asks, and there are as many as there are requests.
"""


def of_wsgi(app):
    """What tells the route of an ``environ``."""
    # `app.wsgi_app = everprof.wsgi(app.wsgi_app)` is how Flask has its middleware.
    flask = app if hasattr(app, "url_map") else getattr(app, "__self__", None)
    if hasattr(flask, "url_map"):
        return lambda environ: _werkzeug(flask.url_map, environ)
    if _is_django(app):
        return lambda environ: _django(_decoded(environ.get("PATH_INFO", "")))
    return lambda environ: None


def of_asgi(app):
    """What tells the route of a ``scope``."""
    if _is_django(app):
        return lambda scope: _django(scope["path"])

    def route(scope):
        # The application puts itself there when its middleware is called.
        routes = getattr(app, "routes", None) or getattr(scope.get("app"), "routes", None)
        return _starlette(routes, scope, "") if routes else None

    return route


def _werkzeug(url_map, environ):
    rule, _ = url_map.bind_to_environ(environ).match(return_rule=True)
    return environ.get("SCRIPT_NAME", "") + rule.rule


def _is_django(app):
    return type(app).__module__.startswith("django.")


def _django(path):
    from django.urls import resolve

    return "/" + resolve(path).route


def _starlette(routes, scope, before):
    for route in routes:
        match, child = route.matches(scope)
        if match.name != "FULL":
            continue
        if hasattr(route, "original_router"):
            return before + _included(route, scope)
        path = before + (getattr(route, "path", "") or "")
        inner = getattr(route, "routes", None)
        return (_starlette(inner, {**scope, **child}, path) if inner else None) or path
    return None


def _included(router, scope):
    """A router that newer versions of FastAPI include as it is: its routes have prefixes that only the router itself knows."""
    _, _, route, context = router._match(scope)
    if hasattr(route, "original_router"):
        return _included(route, scope)
    return getattr(context, "path", "") or route.path


def _decoded(path):
    # WSGI has bytes in the place of letters.
    return path.encode("latin-1", "replace").decode("utf-8", "replace")
