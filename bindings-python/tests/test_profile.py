"""Profiles of a block, and of a moment."""

import gzip
import json
import time
import zlib

import pytest

import everprof
from pprof import Pprof


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        zlib.crc32(bytes(100_000))


def test_a_block_without_a_profiler(tmp_path):
    with everprof.profile(rate_hz=250) as block:
        assert "not ended" in repr(block) and block._repr_html_() is None
        with pytest.raises(everprof.UnavailableError):
            block.html
        burn(0.4)
    assert everprof.stats()["running"] is False
    profile = Pprof(block.pprof)
    assert 0.3e9 < profile.total("cpu") < 0.8e9
    assert profile.total("cpu") == block.totals["cpu"]
    assert block.html.startswith("<!DOCTYPE html>") and "crc32" in block.html
    assert block._repr_html_().startswith("<iframe") and "sandbox" in block._repr_html_()
    assert "crc32" in block.top(5) and "crc32" in block.collapsed and str(block) == block.top()
    assert json.loads(block.speedscope)["profiles"]
    for name in ("a.html", "a.pb.gz", "a.collapsed", "a.speedscope.json", "a.txt"):
        block.save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 0
    assert gzip.decompress((tmp_path / "a.pb.gz").read_bytes())
    with pytest.raises(ValueError, match="ends in one of .html"):
        block.save("a.png")


def test_a_block_beside_a_profiler(tmp_path):
    everprof.start(dir=tmp_path, service="x")
    with everprof.profile() as outer:
        burn(0.1)
        with everprof.profile() as inner:
            burn(0.2)
    assert everprof.stats()["running"] is True
    assert 0.15e9 < inner.totals["cpu"] < outer.totals["cpu"]
    with pytest.raises(everprof.AlreadyRunningError):
        with everprof.profile(rate_hz=10):
            pass
    everprof.stop()


def test_a_block_that_fails_has_a_profile_too():
    block = everprof.profile()
    with pytest.raises(KeyError):
        with block:
            burn(0.1)
            raise KeyError
    assert block.totals["cpu"] > 0 and everprof.stats()["running"] is False


def test_what_cannot_be_had_is_told():
    with pytest.raises(everprof.InvalidOptionError, match="there is no kind \"gpu\": give one of cpu"):
        with everprof.profile("gpu"):
            pass
    assert everprof.stats()["running"] is False
    with pytest.raises(everprof.InvalidOptionError, match="did you mean `rate_hz`"):
        with everprof.profile(rate=1):
            pass


def test_every_kind_of_a_block(tmp_path):
    everprof.start(push="off")
    for kind in ("wall", "offcpu", "alloc", "heap", "lock"):
        with everprof.profile(kind) as block:
            time.sleep(0.05)
            kept = [bytearray(1 << 20) for _ in range(20)]
        assert block.html, kind
    del kept
    everprof.stop()


def test_the_threads_of_the_moment(tmp_path):
    everprof.start(push="off")
    threads = everprof.snapshot("threads")
    assert threads.totals["threads"] >= 2
    with pytest.raises(everprof.UnsupportedError):
        everprof.snapshot("cpu")
    everprof.stop()
