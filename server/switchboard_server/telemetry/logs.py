"""Logs on standard error: a line for people, or a JSON object a line.

What is logged names things and counts them; payloads and tokens are never logged. Facts go into
`extra`, not into the message: `logger.info("listening", extra={"port": 8008})`.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(level: str, form: str, stream: TextIO | None = None) -> None:
    """Sends all logs of the process to one stream.

    Args:
        level: Least level that is logged: debug, info, warning or error.
        form: "text" or "json".
        stream: Where to; None: standard error.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # It logs each HTTP request at info, and at debug all its headers, a token among them.
    logging.getLogger("websockets").setLevel(max(logging.WARNING, root.level))


class TextFormatter(logging.Formatter):
    """One line a record, with the facts as key=value at its end; a traceback follows."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line = f"{_time(record)} {record.levelname:<7} {record.name}: {record.getMessage()}"
        facts = "".join(f" {name}={value}" for name, value in _facts(record).items())
        # Names that clients choose may hold line breaks, by which they could forge a line here.
        text = _printable(line + facts)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger, message, error, and the facts."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        # Facts first: one by the name of a standard member must not hide that.
        entry = _facts(record) | {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def _time(record: logging.LogRecord) -> str:
    time = datetime.fromtimestamp(record.created, UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _facts(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
