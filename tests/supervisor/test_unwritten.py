from supervisor.unwritten import Kept, Unwritten


def kept(session, data=b"[]", client=""):
    return Kept(session, client, 1_000.0, data)


def test_of_each_session_the_newest():
    waiting = Unwritten(100)
    first, second, other = kept("s", b"1"), kept("s", b"2"), kept("s", b"3", client="1a2b")
    for one in (first, second, other):
        assert waiting.put(one) == []
    assert len(waiting) == 2
    assert waiting.find("s", "") is second
    assert waiting.find("s", "1a2b") is other
    assert waiting.find("t", "") is None
    assert waiting.batch(10) == [second, other]
    assert waiting.batch(1) == [second]


def test_what_is_written_goes_and_what_came_meanwhile_stays():
    waiting = Unwritten(100)
    waiting.put(kept("a"))
    waiting.put(kept("b"))
    batch = waiting.batch(10)
    newer = kept("b", b"newer")
    waiting.put(newer)
    waiting.forget(batch)
    assert waiting.batch(10) == [newer]
    waiting.forget(batch)
    assert waiting.find("b", "") is newer


def test_the_oldest_are_lost_when_there_is_no_room():
    waiting = Unwritten(10)
    a, b, c = kept("a", b"x" * 4), kept("b", b"x" * 4), kept("c", b"x" * 8)
    assert waiting.put(a) == []
    assert waiting.put(b) == []
    assert waiting.put(c) == [a, b]
    assert waiting.put(kept("c", b"x" * 9)) == []
    assert waiting.put(kept("d", b"x")) == []
    assert len(waiting) == 2
    huge = kept("huge", b"x" * 100)
    assert len(waiting.put(huge)) == 2
    assert waiting.batch(10) == [huge]


def test_giving_up():
    waiting = Unwritten(10)
    waiting.put(kept("a", b"x" * 10))
    assert waiting.clear() == 1
    assert waiting.clear() == 0
    assert waiting.put(kept("b", b"x" * 10)) == []
