"""Labels: scopes, tasks, threads, functions; and that no sample has somebody else's."""

import asyncio
import contextvars
import threading

import pytest

import everprof
from everprof import current_labels, labels


def test_scopes_nest_and_end():
    assert current_labels() == {}
    with labels(tenant="a", n=1):
        with labels({"k8s.pod": "x"}, tenant="b"):
            assert current_labels() == {"tenant": "b", "n": "1", "k8s.pod": "x"}
        assert current_labels() == {"tenant": "a", "n": "1"}
    assert current_labels() == {}


def test_an_exception_ends_the_scope():
    with pytest.raises(ZeroDivisionError):
        with labels(tenant="a"):
            1 / 0
    assert current_labels() == {}


def test_one_object_may_be_entered_many_times():
    outer = labels(tenant="a")
    with outer, outer, labels(stage="b"), outer:
        assert current_labels() == {"tenant": "a", "stage": "b"}
    assert current_labels() == {}


def test_an_outer_scope_ends_the_inner_ones():
    outer, inner = labels(a=1), labels(b=2)
    outer.__enter__(), inner.__enter__()
    outer.__exit__()
    assert current_labels() == {}
    inner.__exit__()
    assert current_labels() == {}


def test_too_deep_scopes_are_not_entered_and_cost_nothing_at_the_end():
    scopes = [labels({f"k{number}": number}) for number in range(1000)]
    for scope in scopes:
        scope.__enter__()
    assert 0 < len(current_labels()) <= 64
    for scope in reversed(scopes):
        scope.__exit__()
    assert current_labels() == {}


def test_functions_and_coroutines():
    @labels(step="f")
    def function(more):
        """Its words."""
        return current_labels(), more

    @labels(step="g")
    async def coroutine():
        await asyncio.sleep(0)
        return current_labels()

    assert function(more=3) == ({"step": "f"}, 3) and function.__doc__ == "Its words."
    assert asyncio.run(coroutine()) == {"step": "g"}
    assert current_labels() == {}
    with pytest.raises(TypeError, match="generators"):

        @labels(step="h")
        def generator():
            yield


def test_tasks_have_their_own():
    async def task(name):
        with labels(task=name):
            for _ in range(20):
                await asyncio.sleep(0)
                assert current_labels() == {"of": "all", "task": name}
            return await asyncio.to_thread(current_labels)

    async def main():
        async with labels(of="all"):
            return await asyncio.gather(*(task(str(number)) for number in range(50)))

    assert asyncio.run(main()) == [{"of": "all", "task": str(number)} for number in range(50)]
    assert current_labels() == {}


def test_a_context_keeps_its_labels_alive():
    with labels(tenant="kept"):
        context = contextvars.copy_context()
    for number in range(1000):
        labels(other=number)
    assert context.run(current_labels) == {"tenant": "kept"}


def test_threads_begin_without():
    with labels(tenant="a"):
        seen = []
        thread = threading.Thread(target=lambda: seen.append(current_labels()))
        thread.start(), thread.join()
    assert seen == [{}]


def test_samples_have_the_labels_of_the_code_that_runs(program):
    done = program(
        """
        everprof.start(service="x", rate_hz=500)
        import threading
        def work(tenant):
            for _ in range(20):
                with everprof.labels(tenant=tenant):
                    burn(0.02 if tenant == "small" else 0.04)
        threads = [threading.Thread(target=work, args=[tenant]) for tenant in ("small", "large")]
        [thread.start() for thread in threads]; [thread.join() for thread in threads]
        """
    )
    (profile,) = done.profiles()
    of = lambda tenant: profile.total("cpu", lambda sample: sample["labels"].get("tenant") == tenant)
    # Both burn by the process's clock, so that each has about a half of what both do.
    assert of("small") > 0.1e9 and of("large") > 0.1e9
    assert of("small") + of("large") > 0.8 * profile.total("cpu")


def test_no_task_has_the_labels_of_another(program):
    done = program(
        """
        import asyncio
        def mine(): burn(0.02)
        def others(): burn(0.02)
        async def labelled():
            with everprof.labels(tenant="a"):
                for _ in range(20):
                    mine(); await asyncio.sleep(0)
        async def without():
            for _ in range(20):
                await asyncio.sleep(0); others()
        async def main():
            await asyncio.gather(labelled(), without())
        everprof.start(service="x", rate_hz=500)
        asyncio.run(main())
        everprof.stop()
        """
    )
    (profile,) = done.profiles()
    labelled = profile.total("cpu", lambda sample: sample["labels"].get("tenant") == "a")
    assert labelled < 0.7 * profile.total("cpu"), "some are others'"
