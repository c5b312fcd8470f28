"""What the heir makes of what its elder tells: one ledger, one registry, one stop."""

import os
import time

import pytest
import trio
from fakes.streams import ListedStore, make_record, make_start

from shared.channel import FrameReader, FrameWriter, open_pipe
from shared.config import Config
from shared.messages import Admit, Beat, Progress, StreamEnded, StreamStarted
from supervisor.control import ElderStatus
from supervisor.elder import ORPHAN_TIME, Elder
from supervisor.handover import Cancel, Said, Stop, WorkerLeft, decode_from_heir
from supervisor.hub import Hub
from supervisor.ledger import Ledger

OLDER, WORKER = 100, 200


class Peer:
    slot, pid, backlog = 1, 300, 0

    def __init__(self):
        self.told = []

    def send(self, message):
        self.told.append(message)


@pytest.fixture
async def heir(autojump_clock):
    ledger, store = Ledger(), ListedStore()
    hub = Hub(Config(), ledger)
    read_fd, write_fd = open_pipe()
    reader, writer = FrameReader(read_fd), FrameWriter(write_fd)
    pidfd = os.pidfd_open(os.getpid())
    elder = Elder(OLDER, pidfd, writer, ledger=ledger, hub=hub, store=store)

    def heard():
        return [decode_from_heir(payload) for payload in reader.receive_available_nowait()]

    yield elder, hub, ledger, store, heard
    reader.close()
    writer.close()
    os.close(pidfd)


def said(message, pid=WORKER, supervisor=OLDER):
    return Said(supervisor, pid, 2, message)


async def test_its_streams_are_the_service_s(heir):
    elder, hub, ledger, store, _ = heir
    elder.take(said(StreamStarted(make_start("s1", started=time.time() - 60))))
    elder.take(said(StreamStarted(make_start("s2")), pid=WORKER + 1, supervisor=OLDER - 1))
    progress = [Progress("s1", 7, 99)]
    elder.take(said(Beat(streams=1, connections=1, rss_bytes=1, lag=0.0, dropped=0, progress=progress)))
    stream = ledger.find("s1")
    assert (stream.tokens, stream.worker_pid) == (7, WORKER)
    assert 59 < trio.current_time() - stream.began < 61
    assert elder.statuses() == [ElderStatus(OLDER, 1), ElderStatus(OLDER - 1, 1)]
    elder.take(said(StreamEnded(make_record("s1"))))
    elder.take(WorkerLeft(WORKER))
    elder.take(WorkerLeft(WORKER))  # nobody knows it any more
    totals = ledger.totals()
    assert (totals.started, totals.completed, totals.active) == (2, 1, 1)
    assert store.records == []  # the elder writes it
    hub.cancel(WORKER, "s1")  # gone


async def test_a_newer_stream_of_a_session_ends_the_elder_s_and_waits_for_it(heir):
    elder, hub, _, _, heard = heir
    peer = Peer()
    hub.joined(peer)
    elder.take(said(StreamStarted(make_start("old"))))
    elder.take(said(Admit("old", "kimi", "mine")))
    hub.take(peer, Admit("new", "kimi", "mine"))
    assert heard() == [Cancel(WORKER, "old", "registry_new_stream")]
    assert not [message for message in peer.told if getattr(message, "id", None) == "new"]
    elder.take(said(StreamEnded(make_record("old", status="cancelled"))))
    assert peer.told[-1].id == "new"
    assert peer.told[-1].admitted


async def test_and_the_other_way_round(heir):
    """A connection that the elder's worker still answers may bring the newer stream."""
    elder, hub, _, _, _ = heir
    peer = Peer()
    hub.joined(peer)
    hub.take(peer, Admit("old", "kimi", "mine"))
    elder.take(said(Admit("new", "kimi", "mine")))
    assert (peer.told[-1].id, peer.told[-1].reason) == ("old", "registry_new_stream")


async def test_an_admin_and_a_stop_reach_it(heir):
    elder, hub, _, _, heard = heir
    elder.take(said(StreamStarted(make_start("s1"))))
    hub.cancel(WORKER, "s1")
    elder.stop(3.0)
    elder.stop(0.0)
    assert heard() == [Cancel(WORKER, "s1", "admin"), Stop(3.0), Stop(0.0)]


async def test_what_a_killed_one_left_open_has_a_record_in_the_end(heir):
    elder, _, ledger, store, _ = heir
    elder.take(said(StreamStarted(make_start("s1"))))
    began = trio.current_time()
    await elder.lost()
    assert trio.current_time() - began >= ORPHAN_TIME  # what its worker knows comes first
    assert [(record.start.id, record.error_type) for record in store.records] == [("s1", "worker_died")]
    assert ledger.active_count() == 0
    assert elder.statuses() == []


async def test_an_heir_of_the_heir_is_told_of_all_of_it(heir):
    elder, hub, ledger, _, _ = heir
    peer = Peer()
    hub.joined(peer)
    elder.take(said(StreamStarted(make_start("s1"))))
    elder.take(said(Admit("s1", "kimi", "mine", "key")))
    ledger.started(peer.pid, make_start("s2"))
    told = []
    hub.mirror = lambda who, message: told.append((who.pid, message))
    open_streams = list(hub.open_streams())
    assert [(who.pid, type(message)) for who, message in open_streams] == [
        (peer.pid, StreamStarted),
        (WORKER, StreamStarted),
        (WORKER, Admit),
    ]
    assert open_streams[-1][1] == Admit("s1", "kimi", "mine", "key")
    elder.take(said(StreamEnded(make_record("s1"))))
    elder.take(WorkerLeft(WORKER))
    assert told == [(WORKER, StreamEnded(make_record("s1"))), (WORKER, None)]
