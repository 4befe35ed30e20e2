"""A Flower Grid that answers promptly: short polls, and no round waits for a dead site longer than it must.

Flower's own ``send_and_receive`` looks every 3 s and waits for every reply until its timeout.
"""

import time
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run


def keep_waiting(
    elapsed_s: float,
    num_replies: int,
    num_sent: int,
    *,
    enough: int,
    first_enough_s: float | None,
    timeout_s: float,
    grace_s: float,
) -> bool:
    """Whether a round still waits: for all replies, or, once ``enough`` came, for stragglers.

    Stragglers get as long again as the others took, at least ``grace_s``.
    """
    if num_replies >= num_sent or elapsed_s >= timeout_s:
        return False
    if num_replies < enough or first_enough_s is None:
        return True
    return elapsed_s < first_enough_s + max(grace_s, first_enough_s)


class PromptGrid(Grid):
    """Wraps the Grid that Flower hands to the ServerApp."""

    def __init__(self, grid: Grid, *, enough: int, poll_s: float = 0.2, grace_s: float = 10.0) -> None:
        self._grid, self._enough, self._poll_s, self._grace_s = grid, enough, poll_s, grace_s

    def set_run(self, run: Run) -> None:
        """Set the run of the wrapped grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run of the wrapped grid."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message for one node."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the nodes that are connected now."""
        return list(self._grid.get_node_ids())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages and return their ids."""
        return list(self._grid.push_messages(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to the given messages that have arrived."""
        return list(self._grid.pull_messages(message_ids))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return the replies that came in time."""
        outgoing = list(messages)
        open_ids = set(self.push_messages(outgoing)) if outgoing else set[str]()
        sent, replies, started, first_enough_s = len(open_ids), list[Message](), time.monotonic(), None
        while keep_waiting(
            time.monotonic() - started,
            len(replies),
            sent,
            enough=self._enough,
            first_enough_s=first_enough_s,
            timeout_s=timeout or float("inf"),
            grace_s=self._grace_s,
        ):
            time.sleep(self._poll_s)
            arrived = list(self.pull_messages(open_ids))
            replies += arrived
            open_ids -= {reply.metadata.reply_to_message_id for reply in arrived}
            if first_enough_s is None and len(replies) >= self._enough:
                first_enough_s = time.monotonic() - started
        return replies
