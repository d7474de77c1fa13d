"""Runs the command line: `python -m switchboard_server`."""

import signal

if __name__ == "__main__":
    # Until there is a hub to stop, Ctrl+C ends the process without a word; Python would show where
    # in what it imports it was.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from switchboard_server.cli import main
    except ModuleNotFoundError as error:
        # A plain install, which is for clients, has the hub's code too, but not what it needs.
        raise SystemExit(
            f"switchboard: the hub needs {error.name}, which its extra brings: "
            "pip install 'switchboard-mesh[server]'"
        ) from None

    main(prog_name="python -m switchboard_server")
