"""The supervisor's part in conversations, for `fakes.gateway`: `running.answer = KeptConversations().answer`."""

from shared.messages import Conversation, KeepConversation, Question


class KeptConversations:
    """What was kept, by session and client, as `worker.agent.conversation` wrote it."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str | None], bytes] = {}

    def answer(self, question: Question) -> tuple[int, bytes] | None:
        """A status and a body; nothing for other questions."""
        match question:
            case KeepConversation(session, client, data):
                self.kept[session, client] = data
                return 200, b"{}"
            case Conversation(session, client):
                data = self.kept.get((session, client), b"")
                return (200, data) if data else (404, b'{"message":"nothing is known of this session"}')
            case _:
                return None
