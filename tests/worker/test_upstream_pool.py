from worker.upstream.pool import IdlePool, Origin

A = Origin("http", "a.test", 80)
B = Origin("https", "b.test", 443)


def pool(max_idle=10, idle_expiry=30.0):
    return IdlePool[str](max_idle=max_idle, idle_expiry=idle_expiry)


def test_the_last_put_is_the_first_taken():
    idle = pool()
    idle.put(A, "one", now=0.0)
    idle.put(A, "two", now=1.0)
    assert [idle.take(A), idle.take(A), idle.take(A)] == ["two", "one", None]


def test_origins_do_not_mix():
    idle = pool()
    idle.put(A, "a", now=0.0)
    assert idle.take(B) is None
    assert idle.take(A) == "a"


def test_the_oldest_goes_when_there_are_too_many_whatever_its_origin():
    idle = pool(max_idle=2)
    assert idle.put(B, "b", now=0.0) == []
    assert idle.put(A, "a1", now=1.0) == []
    assert idle.put(A, "a2", now=2.0) == ["b"]
    assert idle.put(B, "b2", now=3.0) == ["a1"]
    assert len(idle) == 2


def test_what_has_been_idle_too_long_expires():
    idle = pool(idle_expiry=30.0)
    idle.put(A, "old", now=0.0)
    idle.put(A, "young", now=20.0)
    assert idle.expire(now=29.9) == []
    assert idle.expire(now=30.0) == ["old"]
    assert idle.put(A, "new", now=50.0) == ["young"]
    assert len(idle) == 1


def test_clear_gives_all_back():
    idle = pool()
    idle.put(A, "a", now=0.0)
    idle.put(B, "b", now=0.0)
    assert sorted(idle.clear()) == ["a", "b"]
    assert len(idle) == 0
    assert idle.take(A) is None
