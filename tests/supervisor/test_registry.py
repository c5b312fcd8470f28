import random

from supervisor.registry import GRACE, Registry


def test_the_first_of_a_key_has_nobody_to_wait_for():
    registry = Registry()
    assert registry.join("a", "key", 0.0) == []
    assert registry.is_clear("a", 0.0)


def test_a_new_one_waits_until_the_older_has_left():
    registry = Registry()
    registry.join("a", "key", 0.0)
    assert registry.join("b", "key", 1.0) == ["a"]
    assert not registry.is_clear("b", 1.0)
    assert not registry.is_clear("a", 1.0), "who gives way is not clear"
    assert registry.leave("a") == "b"
    assert registry.is_clear("b", 1.0)


def test_it_does_not_wait_for_ever():
    registry = Registry()
    registry.join("a", "key", 0.0)
    registry.join("b", "key", 1.0)
    assert not registry.is_clear("b", 1.0 + GRACE - 0.001)
    assert registry.is_clear("b", 1.0 + GRACE)


def test_the_last_of_several_newcomers_wins():
    registry = Registry()
    registry.join("a", "key", 0.0)
    assert registry.join("b", "key", 0.1) == ["a"]
    assert registry.join("c", "key", 0.2) == ["b"], "a has been told before"
    assert registry.leave("a") == "c"
    assert not registry.is_clear("b", 0.3)
    assert not registry.is_clear("c", 0.3), "b is still there"
    assert registry.leave("b") == "c"
    assert registry.is_clear("c", 0.3)


def test_one_that_is_stuck_is_waited_for_once():
    registry = Registry()
    registry.join("stuck", "key", 0.0)
    registry.join("b", "key", 0.0)
    registry.leave("b")
    registry.join("c", "key", GRACE)
    assert registry.is_clear("c", GRACE)


def test_keys_are_strangers():
    registry = Registry()
    registry.join("a", ("k1", "session"), 0.0)
    assert registry.join("b", ("k2", "session"), 0.0) == []
    assert registry.join("c", (None, "session"), 0.0) == []
    assert all(registry.is_clear(id, 0.0) for id in "abc")


def test_joining_again_changes_nothing():
    registry = Registry()
    registry.join("a", "key", 0.0)
    registry.join("b", "key", 0.0)
    registry.leave("a")
    assert registry.join("b", "key", 1.0) == []
    assert registry.is_clear("b", 1.0)


def test_one_that_was_told_to_go_is_not_let_in_by_asking_again():
    registry = Registry()
    registry.join("a", "key", 0.0)
    registry.join("b", "key", 0.0)
    assert registry.join("a", "key", 9.0) == []
    assert not registry.is_clear("a", 9.0)


def test_strangers_are_no_error():
    registry = Registry()
    assert registry.leave("nobody") is None
    assert registry.is_clear("nobody", 0.0)


def test_at_any_time_at_most_one_of_a_key_runs_and_nothing_is_left():
    rnd = random.Random(4)
    for _ in range(200):
        registry, now, live = Registry(), 0.0, {}
        told: dict[str, float] = {}
        for number in range(40):
            now += rnd.random() / 10
            if live and rnd.random() < 0.5:
                id = rnd.choice(list(live))
                del live[id]
                registry.leave(id)
            id, key = f"s{number}", rnd.choice("xyz")
            given_up = registry.join(id, key, now)
            assert [live[one] for one in given_up] == [key] * len(given_up)
            assert not told.keys() & set(given_up), "each is told once"
            told |= dict.fromkeys(given_up, now)
            live[id] = key
            for key in "xyz":
                running = [one for one in live if live[one] == key and one not in told]
                assert len(running) <= 1
                for one in running:
                    others = [told[other] for other in live if live[other] == key and other != one]
                    assert registry.is_clear(one, now) == all(at + GRACE <= now for at in others)
        for id in live:
            registry.leave(id)
        assert len(registry) == 0
        assert registry._keys == {}
