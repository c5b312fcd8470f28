"""What every test needs of the process that it runs in."""

import signal

pytest_plugins = ["fakes.bounds"]

# Who was started in the background of a shell, or by nohup, ignores these, and so would every process of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
