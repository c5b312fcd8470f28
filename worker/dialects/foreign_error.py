"""What an error body says that keeps to neither dialect: gateways, load balancers and frameworks have their own."""

import msgspec

from worker.dialects.lenient import BAD_JSON

MAX_CHARS = 2000
# {"message"} Mistral and AWS, {"detail"} FastAPI, {"msg"} and {"error_msg"} Chinese hosts, [{"error": {…}}] Gemini,
# {"errors": [{…}]} Cloudflare, {"base_resp": {"status_msg"}} MiniMax.
_PLACES = ("error", "message", "detail", "msg", "error_msg", "errors", "base_resp", "status_msg")


def foreign_message(body: bytes) -> str | None:
    """The sentence in a JSON body, wherever it stands; None where there is none."""
    try:
        node = msgspec.json.decode(body)
    except BAD_JSON:
        return None
    for _ in range(4):
        if isinstance(node, list) and node:
            node = node[0]
        elif isinstance(node, dict):
            node = next((node[name] for name in _PLACES if node.get(name)), None)
    return " ".join(node[:MAX_CHARS].split()) or None if isinstance(node, str) else None
