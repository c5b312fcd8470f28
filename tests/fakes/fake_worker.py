"""A worker that does as it is told, to try the supervisor with: `worker.main` and `worker.preload` in one.

The key of a provider named `behaviour` says how it begins:

    serve      say Ready, beat, obey the down pipe (also when there is no such key)
    stubborn   the same, but ignore Drain
    mute       neither Ready nor beats
    die        exit with code 3 before Ready
    die_ready  exit with code 4 right after Ready

The key `marks`, if any, is a folder: SIGUSR1 leaves a file named by the pid in it.

A serving one takes one line on each connection to its sockets, and answers it with one:

    pid · generation · behaviour (the newest configuration's)
    open ID (announce a stream) · progress ID TOKENS · close ID
    hang (block the event loop for ever) · garbage (write nonsense on the up pipe) · exit CODE
    recycle (ask to be replaced)
"""

import os
import signal
import time
from functools import partial
from pathlib import Path

import trio

from shared.channel import FrameReader, FrameWriter
from shared.framing import frame
from shared.messages import (
    Beat,
    Configure,
    Drain,
    Progress,
    Ready,
    Recycle,
    StreamEnded,
    StreamStarted,
    decode_down,
    encode,
)
from shared.records import StreamRecord, StreamStart, Tokens

BEAT_INTERVAL = 0.05


def run(start, listeners, up_fd, down_fd):
    behaviour = start.keys.get("behaviour", "serve")
    if marks := start.keys.get("marks"):
        signal.signal(signal.SIGUSR1, lambda *_: Path(marks, str(os.getpid())).touch())
    if behaviour == "die":
        os._exit(3)
    trio.run(FakeWorker(start, listeners, up_fd, down_fd, behaviour).run)


class FakeWorker:
    def __init__(self, start, listeners, up_fd, down_fd, behaviour):
        self.start = start
        self.listeners = listeners
        self.up_fd = up_fd
        self.up = FrameWriter(up_fd)
        self.down = FrameReader(down_fd)
        self.behaviour = behaviour
        self.streams = {}

    async def run(self):
        if self.behaviour == "mute":
            await trio.sleep_forever()
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in self.listeners]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.up.run)
            if listeners:
                await nursery.start(partial(trio.serve_listeners, self.serve, listeners))
            self.send(Ready(pid=os.getpid(), generation=self.start.generation))
            if self.behaviour == "die_ready":
                await self.up.wait_flushed()
                os._exit(4)
            nursery.start_soon(self.beat)
            await self.obey()
            nursery.cancel_scope.cancel()

    def send(self, message):
        self.up.send_nowait(encode(message))

    async def beat(self):
        while True:
            self.send(Beat(streams=len(self.streams), connections=0, rss_bytes=1, lag=0.0, dropped=0))
            await trio.sleep(BEAT_INTERVAL)

    async def obey(self):
        """Until told to leave, or until the supervisor is gone."""
        while payloads := await self.down.receive():
            for message in map(decode_down, payloads):
                match message:
                    case Configure(keys=keys):
                        self.behaviour = keys.get("behaviour", "serve")
                    case Drain() if self.behaviour != "stubborn":
                        return

    async def serve(self, stream):
        async with stream:
            words = (await stream.receive_some(1024)).decode().split()
            if words:
                await stream.send_all(f"{self.answer(*words)}\n".encode())

    def answer(self, command, *arguments):
        match command, *arguments:
            case "pid", *_:
                return os.getpid()
            case "generation", *_:
                return self.start.generation
            case "behaviour", *_:
                return self.behaviour
            case "open", id:
                self.streams[id] = StreamStart(
                    id=id,
                    trace=id,
                    session=None,
                    worker=self.start.worker,
                    provider="fake",
                    model="text",
                    dialect="openai",
                    streaming=True,
                    started=time.time(),
                )
                self.send(StreamStarted(self.streams[id]))
            case "progress", id, tokens:
                progress = Progress(id=id, tokens=int(tokens), received_bytes=0)
                beat = Beat(streams=1, connections=1, rss_bytes=2, lag=0.0, dropped=0, progress=[progress])
                self.send(beat)
            case "close", id:
                start = self.streams.pop(id)
                self.send(
                    StreamEnded(
                        StreamRecord(
                            start=start,
                            provider="fake",
                            upstream_model="text",
                            status="completed",
                            duration=1.0,
                            completion=Tokens(7, "provider"),
                        )
                    )
                )
            case "hang", *_:
                while True:
                    time.sleep(3600)
            case "garbage", *_:
                os.write(self.up_fd, frame(b"\xc1 is never used in msgpack"))
            case "recycle", *_:
                self.send(Recycle(reason="worn out"))
            case "exit", code:
                os._exit(int(code))
        return os.getpid()
