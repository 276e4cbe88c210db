"""What everprof has to say goes to the logger `everprof`, on calls of the program's."""

import everprof


def test_messages_reach_the_logger(program):
    done = program(
        """
        import logging
        logging.basicConfig(level=logging.DEBUG, format="%(name)s %(levelname)s %(message)s", stream=sys.stdout)
        everprof.start(service="x", dir="there")
        """
    )
    assert "everprof INFO every thread is sampled 99 times a second" in done.out


def test_only_warnings_without_logging(program):
    done = program("open('file', 'w'); everprof.start(dir='file'); print('logging' in sys.modules, everprof.stats()['running'])")
    assert "is not a directory" in done.err and "sampled" not in done.err
    assert program("everprof.start(); print('logging' in sys.modules)").out == "False\n"


def test_a_handler_that_fails_is_not_the_programs_affair(program):
    done = program(
        """
        import logging
        class Bad(logging.Filter):
            def filter(self, record): raise RuntimeError("bad")
        logging.getLogger("everprof").addFilter(Bad())
        logging.getLogger("everprof").setLevel("DEBUG")
        everprof.start()
        print(everprof.stats()["running"])
        """
    )
    assert done.out == "True\n" and done.err == ""


def test_the_level_is_an_option(program):
    done = program(
        """
        import logging
        logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
        everprof.start(log="warn")
        """
    )
    assert "sampled" not in done.out
