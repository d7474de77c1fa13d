"""Runs the command line: `python -m switchboard_server`."""

import signal

if __name__ == "__main__":
    # Until there is a hub to stop, Ctrl+C ends the process without a word; Python would show where
    # in what it imports it was.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from switchboard_server.cli import main

    main(prog_name="python -m switchboard_server")
