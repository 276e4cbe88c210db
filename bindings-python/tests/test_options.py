"""Options from Python: the vectors that all languages share, and the types that are natural here."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

import everprof
from everprof import _everprof, _options

VECTORS = Path(__file__).parents[2] / "core/tests/vectors"


def vectors(file, part):
    path = VECTORS / file
    if not path.exists():
        pytest.skip(f"NOT TESTED: {path} is not there (no checkout)")
    return json.loads(path.read_text())[part]


def test_every_language_reads_alike():
    for case in vectors("options.json", "set"):
        assert _everprof.canonical(case["name"], case["value"]) == case["text"], case


def test_every_language_refuses_alike():
    for case in vectors("errors.json", "set"):
        with pytest.raises(everprof.Error) as refused:
            everprof.start(**{case["name"]: case["value"]})
        assert refused.value.kind == case["kind"], case
        assert case["message"] in str(refused.value), case
    assert everprof.stats()["running"] is False


@pytest.mark.parametrize(
    "name, value, text",
    [
        ("rate_hz", 250, "250"),
        ("rate_hz", 250.0, "250"),
        ("cpu_budget_percent", 0.5, "0.5"),
        ("thread_ids", True, "on"),
        ("interval_bytes", False, "off"),
        ("kinds", ["cpu", "wall"], "cpu,wall"),
        ("kinds", ("cpu",), "cpu"),
        ("kinds", {"wall", "cpu"}, "cpu,wall"),
        ("push", ["dir", "pyroscope+http://p:4040"], "dir,pyroscope+http://p:4040/"),
        ("tags", {"team": "a,b;c%", "n": 3, "yes": True, "none": None, "edge": " x "}, "edge=%20x%20,n=3,team=a%2Cb%3Bc%25,yes=on"),
        ("push_headers", {"X-Team": "one"}, "x-team=one"),
        ("dir", Path("/tmp/x"), "/tmp/x"),
        ("period_s", timedelta(minutes=2), "120"),
        ("retention_days", timedelta(weeks=1), "7"),
        ("lock_threshold_ns", timedelta(microseconds=50), "50000"),
        ("service", "Grüße", "Grüße"),
    ],
)
def test_natural_types(name, value, text):
    ((_, told),) = _options.pairs({name: value})
    assert _everprof.canonical(name, told) == text


def test_none_is_not_said():
    assert _options.pairs({"service": None}) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rate": 99}, "there is no option `rate`: did you mean `rate_hz`?"),
        ({"servise": object()}, "did you mean `service`?"),
        ({"rate_hz": "fast"}, 'rate_hz is "fast": give a whole number from 1 to 10000 Hz'),
        ({"rate_hz": 99.5}, 'rate_hz is "99.5": give a whole number'),
        ({"rate_hz": float("nan")}, "rate_hz"),
        ({"rate_hz": object()}, "rate_hz is of type object: give whole number, 1 to 10000 Hz"),
        ({"rate_hz": {}}, 'rate_hz is ""'),
        ({"service": b"x"}, "service is of type bytes: give text"),
        ({"tags": {"team": ["a"]}}, "tags is of type list: give key=value"),
        ({"service": "\udcff"}, "service is not text"),
        ({"service": timedelta(1)}, "service is of type datetime.timedelta"),
        ({"period_s": timedelta(0)}, 'period_s is "0"'),
        ({"dir": "\0"}, "give the path of a directory"),
    ],
)
def test_what_is_wrong_is_told(options, message):
    with pytest.raises(everprof.InvalidOptionError) as refused:
        everprof.start(**options)
    assert message in str(refused.value)


def test_a_secret_is_in_no_error():
    for value in ("open sesame", ["open sesame"], {"open": ["sesame"]}):
        with pytest.raises(everprof.InvalidOptionError) as refused:
            everprof.start(serve_token=value)
        assert "sesame" not in str(refused.value)


def test_code_wins_over_the_environment(program):
    code = "everprof.start(service='code'); burn(0.2); print(round(everprof.stats()['wanted_rate_hz']))"
    done = program(code, EVERPROF_SERVICE="environment", EVERPROF_RATE_HZ="42")
    assert done.out == "42\n"
    assert done.profiles()[0].tags["service"] == "code"


def test_live_options_change(program):
    done = program(
        """
        everprof.start(push="off")
        everprof.set(rate_hz=199, kinds=["cpu", "wall"])
        time.sleep(2.2)
        print(round(everprof.stats()["wanted_rate_hz"]), everprof.stats()["active_kinds"])
        try:
            everprof.set(service="x")
        except everprof.InvalidOptionError as error:
            print(error)
        """
    )
    assert "199 ['cpu', 'wall']" in done.out and "service" in done.out.splitlines()[1]


def test_an_exception_for_each_kind():
    assert {error.kind for error in everprof.Error.__subclasses__()} >= {"invalid_option", "already_running", "internal"}
    for error in everprof.Error.__subclasses__():
        assert issubclass(error, Exception) and getattr(everprof, error.__name__) is error and error.__doc__
        assert error.__module__ == "everprof"
