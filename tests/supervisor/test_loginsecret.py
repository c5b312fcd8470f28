"""The secret of logins: made once, closed to others; and how often somebody may try to log in."""

import os
import stat

import pytest

from shared.errors import StartError
from supervisor.logins import MAX_SOURCES, LoginGuard
from supervisor.loginsecret import SECRET_BYTES, load_login_secret

HERE = "127.0.0.1"


def test_it_is_made_once(tmp_path):
    path = tmp_path / "login.secret"
    secret = load_login_secret(path)
    assert len(secret) == SECRET_BYTES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_login_secret(path) == secret
    path.unlink()
    assert load_login_secret(path) != secret
    assert os.listdir(tmp_path) == ["login.secret"]


@pytest.mark.parametrize(("data", "mode"), [(b"", 0o600), (b"short", 0o600), (b"x" * 33, 0o600), (b"x" * 32, 0o644)])
def test_one_that_is_damaged_or_open_to_others_is_made_anew(tmp_path, data, mode):
    path = tmp_path / "login.secret"
    path.write_bytes(data)
    path.chmod(mode)
    secret = load_login_secret(path)
    assert len(secret) == SECRET_BYTES
    assert secret != data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_can_not_be_kept_is_told(tmp_path):
    (tmp_path / "login.secret").mkdir()
    with pytest.raises(StartError, match=r"login\.secret: the secret of logins can't be kept there"):
        load_login_secret(tmp_path / "login.secret")


def test_ten_failures_a_minute():
    guard = LoginGuard()
    assert all(guard.attempt(HERE, 0.0, failed=True) is None for _ in range(10))
    assert guard.attempt(HERE, 0.0, failed=True) == 6
    assert guard.attempt(HERE, 5.5, failed=False) == 1  # a right key too, or the answer would tell that it is one
    assert guard.attempt(HERE, 6.0, failed=False) is None
    assert guard.attempt(HERE, 6.0, failed=True) is None
    assert guard.attempt(HERE, 6.0, failed=True) == 6


@pytest.mark.parametrize(
    ("address", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("unix", "127.0.0.1", False),
    ],
)
def test_nobody_can_keep_others_out(address, other, is_same):
    guard = LoginGuard()
    while guard.attempt(address, 0.0, failed=True) is None:
        pass
    assert (guard.attempt(other, 0.0, failed=False) is not None) == is_same


def test_a_guesser_of_many_addresses_is_no_burden():
    guard = LoginGuard()
    for number in range(3 * MAX_SOURCES):
        guard.attempt(f"source {number}", 0.0, failed=True)
    assert len(guard._buckets) == MAX_SOURCES


def test_good_logins_are_not_counted():
    guard = LoginGuard()
    assert all(guard.attempt(HERE, 0.0, failed=False) is None for _ in range(1000))
