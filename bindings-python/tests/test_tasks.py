"""The label `task`: whenever asyncio comes, in threads and in children. That samples have it is shown by `frames/tasks.py`."""

import sys

import pytest


def test_asyncio_may_come_later(program):
    program(
        """
        everprof.start(service="x", async_tasks="names")
        assert "asyncio" not in sys.modules
        before = sys.meta_path[:]
        import asyncio, threading
        assert "exec_module" not in vars(asyncio.base_events.__spec__.loader)
        seen = []
        async def named(): return everprof.current_labels()
        async def main():
            return [await asyncio.create_task(named()), await asyncio.create_task(named(), name="n")]
        expected = [{"task": "named"}, {"task": "n"}]
        assert asyncio.run(main()) == expected
        thread = threading.Thread(target=lambda: seen.append(asyncio.run(main())))
        thread.start(); thread.join()
        assert seen == [expected]
        if os.fork() == 0:
            os._exit(0 if asyncio.run(main()) == expected else 1)
        assert os.wait()[1] == 0
        everprof.stop()
        assert asyncio.run(main()) == [{}, {}]
        """
    )


def test_who_does_not_want_it_has_asyncio_as_it_is(program):
    program(
        """
        import asyncio
        had = asyncio.BaseEventLoop.create_task
        everprof.start(service="x")
        assert asyncio.BaseEventLoop.create_task is had and "everprof._tasks" not in sys.modules
        """
    )


def test_uvloop_may_come_later(program):
    pytest.importorskip("uvloop", reason="NOT TESTED: uvloop is not installed")
    program(
        """
        everprof.start(service="x", async_tasks="names")
        import uvloop
        async def main(): return everprof.current_labels()
        assert uvloop.new_event_loop().run_until_complete(main()) == {"task": "main"}
        """
    )


@pytest.mark.skipif(sys.version_info < (3, 11), reason="contexts are passed from 3.11 on")
def test_two_at_once_in_one_context_have_none(program):
    program(
        """
        import asyncio, contextvars
        everprof.start(service="x", async_tasks="names")
        async def task():
            await asyncio.sleep(0)
            return everprof.current_labels()
        async def main():
            shared = contextvars.copy_context()
            make = lambda: asyncio.create_task(task(), context=shared)
            two = await asyncio.gather(make(), make())
            return two + [await make()]
        with everprof.labels(tenant="a"):
            assert asyncio.run(main()) == [{"tenant": "a"}, {"tenant": "a"}, {"tenant": "a", "task": "task"}]
        """
    )


def test_an_option_that_is_wrong(program):
    done = program("everprof.start(async_tasks='all')", code_is=1)
    assert "async_tasks" in done.err and "names" in done.err


WAITS = """
        import asyncio
        from everprof import _waits
        async def waits(seconds): await asyncio.sleep(seconds)
        """


def test_waits_are_told_only_where_they_are_wanted(program):
    done = program(
        WAITS
        + """
        everprof.start(service="x", async_tasks="waits")
        asyncio.run(waits(0.5))
        everprof.set(kinds="cpu,wall")
        asyncio.run(waits(2))
        everprof.set(kinds="cpu")
        asyncio.run(waits(0.5))
        """
    )
    waited = sum(profile.total("wall", lambda sample: sample["labels"].get("task") == "waits") for profile in done.profiles("wall"))
    assert 1e9 < waited < 2.2e9


def test_looks_end_with_the_profiler_and_go_on_with_the_next(program):
    program(
        WAITS
        + """
        async def main():
            everprof.start(service="x", kinds="cpu,wall", async_tasks="waits")
            loop = asyncio.get_running_loop()
            assert list(_waits._looks) == [id(loop)]
            everprof.stop()
            await asyncio.sleep(0.5)
            assert not _waits._looks and not loop._scheduled
            everprof.start(service="x", kinds="cpu,wall", async_tasks="names")
            await asyncio.create_task(waits(0))
            assert not _waits._looks
            everprof.stop()
            everprof.start(service="x", kinds="cpu,wall", async_tasks="waits")
            await asyncio.create_task(waits(0))
            assert list(_waits._looks) == [id(loop)]
        asyncio.run(main())
        import gc
        gc.collect()
        assert not _waits._looks, "a loop is kept alive"
        """
    )


def test_a_loop_in_each_of_many_threads(program):
    done = program(
        WAITS
        + """
        import threading
        everprof.start(service="x", kinds="cpu,wall", async_tasks="waits")
        threads = [threading.Thread(target=lambda: asyncio.run(waits(1.5))) for _ in range(5)]
        [thread.start() for thread in threads]; [thread.join() for thread in threads]
        """
    )
    waited = sum(profile.total("wall", lambda sample: sample["labels"].get("task") == "waits") for profile in done.profiles("wall"))
    assert 4e9 < waited < 9e9
