"""A new user at a terminal, by keyboard only: setup, check, and the real Claude Code, in a home that has nothing.

docs/transcript.md is what was on their screen: KIMI_PROXY_WRITE_DOCS=1 writes it, and setup's part has to be what is
seen today.  Another program may have port 8000 meanwhile; then the rest looks a little different.
"""

import os
import re

import pytest
import trio
from fakes.claude_code import install_claude_code
from fakes.documents import DOCS, section
from fakes.newcomer import Newcomer
from fakes.node import NoNode
from fakes.openai_upstream import serve_openai, text_of
from fakes.tmux import TMUX, Tmux

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(TMUX is None, reason="tmux is missing; on Debian and Ubuntu: apt install tmux"),
]
KEY = "sk-0123456789abcdefghijklmnop"
ANSWER = "".join(text_of(16)).strip()
_INTRODUCTION = """\
# A whole session

A new user's first minutes, as they were on the screen of `./bin/test tests/integration/test_launcher_tmux.py`: it types
what stands behind `$`, and what is told above each screen. The provider is a stand-in on the same machine, and has not
much to say; with `--base-url` left out it would be Kimi. Claude Code is the real one.
"""
_TOLD = {
    "Setup": "Enter takes kimi; the key is typed and not shown; Enter takes the model; `y` the alias.\n\n",
    "Check": "",
    "One question": "",
    "Claude Code": """\
Enter, at Claude Code's questions about colours and folder, and at its notes on security; a question; `/exit`. This is
the screen before `/exit`.

""",
    "Afterwards": "Nothing is left running. In a new shell `kimi` is a name for `kimi-proxy launch`.\n\n",
}


class Session:
    """What is typed, and what was seen of it: a text for each heading of the document."""

    def __init__(self, tmux: Tmux, newcomer: Newcomer, base_url: str) -> None:
        self._tmux = tmux
        self._newcomer = newcomer
        self._base_url = base_url
        self.seen: dict[str, str] = {}

    def setup(self) -> None:
        tmux = self._tmux
        tmux.wait("$")
        tmux.type(f"kimi-proxy setup --base-url {self._base_url}", "Enter")
        for question, text in (
            ("1 to 13 [1]:", ""),
            ("it is not shown:", KEY),
            ("[kimi-k2.6]:", ""),
            ("[Y/n]:", "y"),
        ):
            tmux.wait(question)
            tmux.type(text, "Enter")
        self._keep("Setup", tmux.wait_prompt())

    def command(self, title: str, *commands: str) -> str:
        """Type commands, one after the other; what they have said."""
        tmux = self._tmux
        before = len(tmux.screen(history=True).splitlines()) - 1
        for command in commands:
            prompt = len(tmux.screen(history=True).splitlines())
            tmux.type(command, "Enter")
            tmux.wait_prompt(prompt)
        return self._keep(title, "\n".join(tmux.screen(history=True).splitlines()[before:]))

    def claude_code(self) -> None:
        tmux = self._tmux
        assert KEY not in tmux.screen(history=True)
        tmux.clear()
        tmux.type("kimi-proxy launch", "Enter")
        for page in ("Choose the text style", "Press Enter to continue", "trust this folder"):
            tmux.wait(page)
            tmux.type("", "Enter")
        tmux.wait("? for shortcuts")
        tmux.type("Is anybody there?")
        tmux.wait("Is anybody there?")
        tmux.type("", "Enter")
        screen = tmux.wait(ANSWER)
        tmux.wait("? for shortcuts")
        self._keep("Claude Code", screen.partition("? for shortcuts")[0])
        tmux.type("/exit")
        tmux.wait("Exit the CLI")
        tmux.type("", "Enter")
        tmux.wait("Resume this session")
        tmux.wait_prompt()
        tmux.clear()

    def _keep(self, title: str, text: str) -> str:
        """As it goes into the document: nothing that is another's tomorrow."""
        text = re.sub(r"\n\$$", "", text.replace("\N{NO-BREAK SPACE}", " ")).replace(
            self._base_url, "http://127.0.0.1:9200/v1"
        )
        text = text.replace(os.fspath(self._newcomer.home), "/home/you")
        text = text.replace(os.fspath(self._newcomer.programs), "/usr/local/bin")
        text = re.sub(r"\b\d+\.\d s\b", "0.1 s", text)
        text = re.sub(r"(?m)^kimi-proxy: starting.*\n", "", text)  # only where a start takes long
        self.seen[title] = "\n".join(line.rstrip() for line in text.rstrip().splitlines())
        return self.seen[title]


@pytest.fixture
def newcomer(tmp_path):
    newcomer = Newcomer(tmp_path)
    try:
        newcomer.install(install_claude_code())
    except NoNode as missing:
        pytest.skip(str(missing))
    (newcomer.home / ".bashrc").write_text("PS1='$ '\n")
    yield newcomer
    newcomer.kill_everything()


def ours(newcomer: Newcomer) -> list[str]:
    """What runs beside the terminal."""
    return [line for line in newcomer.left() if "tmux" not in line and "bash\0--noprofile" not in line]


async def test_a_new_user_by_keyboard_only(tmp_path, newcomer):
    folder = newcomer.home / "project"
    folder.mkdir()

    def sit_down(base_url: str) -> dict[str, str]:
        with Tmux(tmp_path, newcomer.env, folder) as tmux:
            session = Session(tmux, newcomer, base_url)
            session.setup()
            assert "Next:" in session.seen["Setup"]
            assert newcomer.config.exists()
            checked = session.command("Check", "kimi-proxy check")
            for layer in ("config", "key", "provider", "Claude Code", "round trip"):
                assert re.search(rf"(?m)^✓ {layer} ", checked), checked
            said = session.command("One question", 'kimi-proxy launch -p "Say hello"', "echo $?")
            assert said.splitlines()[-3:] == [ANSWER, "$ echo $?", "0"], said
            assert ours(newcomer) == []
            session.claude_code()
            said = session.command("Afterwards", "kimi-proxy status", "exec bash --noprofile", 'kimi -p "Say hello"')
            assert ANSWER in said
            assert "not running" in said
            assert ours(newcomer) == []
            assert KEY not in tmux.screen(history=True)
            return session.seen

    async with serve_openai() as upstream:
        seen = await trio.to_thread.run_sync(sit_down, upstream.base_url)
        assert {row.model for row in upstream.rows_with("")} == {"kimi-k2.6"}
        assert len(upstream.rows_with("Is anybody there?")) >= 1
        assert all(row.headers["authorization"] == f"Bearer {KEY}" for row in upstream.rows_with(""))
    document = DOCS / "transcript.md"
    if os.environ.get("KIMI_PROXY_WRITE_DOCS"):
        assert "in use" not in "".join(seen.values()), "another program has port 8000"
        parts = [f"\n## {title}\n\n{_TOLD[title]}```text\n{text}\n```\n" for title, text in seen.items()]
        document.write_text(_INTRODUCTION + "".join(parts))
    assert seen["Setup"] in section(document.name, "Setup")
