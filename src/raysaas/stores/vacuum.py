"""SQLite files without the bytes of deleted rows: rebuilt, with an empty write-ahead log."""

import sqlite3
import time

from raysaas.errors import Unavailable

_WAIT_S = 30.0


def vacuum(url: str) -> bool:
    """Rebuild the SQLite file of a SQLAlchemy URL; False for another database, whose own vacuum does that.

    Other processes may use the file meanwhile. Raises Unavailable when one of them keeps reading it for 30 s.
    """
    if not url.startswith("sqlite:///"):
        return False
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=_WAIT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("VACUUM")
        deadline = time.monotonic() + _WAIT_S
        # Busy while a reader still looks at a page that only the log holds.
        while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > deadline:
                raise Unavailable(f"{url} is being read: its log could not be emptied within {_WAIT_S:g} s. Try again.")
            time.sleep(0.1)
    except sqlite3.OperationalError as error:
        raise Unavailable(
            f"{url} is in use ({error}): its deleted rows could not be overwritten. Try again."
        ) from error
    finally:
        connection.close()
    return True
