"""Runs the command line: `python -m switchboard_server`."""

from switchboard_server.cli import main

if __name__ == "__main__":
    main(prog_name="python -m switchboard_server")
