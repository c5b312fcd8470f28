"""The files of `[server.tls]`: what can be served with, and what is said of what can't."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from fakes.certificate import self_signed, tls_of

from shared.certificate import TLS, certificate_warnings, read_certificate, server_context
from shared.config import Config, Server, Tls
from shared.errors import ConfigError
from shared.keys import resolve_keys

DAY = 86400.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    self_signed(folder)
    return folder


@pytest.fixture
def tls(folder):
    return Tls(cert=str(folder / "cert.pem"), key=str(folder / "key.pem"))


def problem(tls):
    with pytest.raises(ConfigError) as caught:
        read_certificate(tls)
    return str(caught.value)


def test_it_is_among_the_keys(tls):
    keys = resolve_keys(Config(server=Server(tls=tls)), {})
    assert set(keys) == {TLS}
    server_context(keys[TLS], http2=True)
    assert resolve_keys(Config(), {}) == {}


def test_one_file_may_hold_both(folder, tls):
    pem = read_certificate(tls_of(folder / "both.pem"))
    assert pem == read_certificate(tls)
    assert pem.count("BEGIN CERTIFICATE") == pem.count("PRIVATE KEY-----\n") / 2 == 1


def test_a_file_that_is_not_there(tls, tmp_path):
    missing = str(tmp_path / "none.pem")
    assert problem(Tls(cert=missing, key=tls.key)) == (
        f"[server.tls] cert: {missing} can't be read (No such file or directory): correct the path"
    )
    assert problem(Tls(cert=tls.cert, key=missing)).startswith(f"[server.tls] key: {missing} can't be read")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tls, tmp_path):
    hidden = tmp_path / "key.pem"
    hidden.touch(0o000)
    assert "Permission denied" in problem(Tls(cert=tls.cert, key=str(hidden)))


def test_what_is_no_file(tls, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path):
        assert f"{path} is not a regular file" in problem(Tls(cert=str(path), key=tls.key))


@pytest.mark.parametrize("text", ["", "hello", "-----BEGIN CERTIFICATE-----\nMIIB", "\0" * 100])
def test_what_is_no_pem(tls, tmp_path, text):
    file = tmp_path / "other.pem"
    file.write_text(text)
    assert problem(Tls(cert=str(file), key=tls.key)) == (
        f"[server.tls] cert: {file} holds no certificate: it has to be a file of PEM"
    )
    assert problem(Tls(cert=tls.cert, key=str(file))) == (
        f"[server.tls] key: {file} holds no private key: it has to be a file of PEM"
    )


def test_a_certificate_cut_in_half(tls, tmp_path):
    broken = tmp_path / "broken.pem"
    lines = Path(tls.cert).read_text().splitlines()
    broken.write_text("\n".join([*lines[:3], lines[-1], ""]))
    assert re.fullmatch(
        rf"\[server\.tls\]: {broken} and {tls.key} can't be served with: .+",
        problem(Tls(cert=str(broken), key=tls.key)),
    )


def test_a_key_of_another_certificate(tls, tmp_path):
    other = self_signed(tmp_path)
    assert problem(Tls(cert=tls.cert, key=str(other))) == (
        f"[server.tls] key: {other} does not belong to the first certificate of {tls.cert}: "
        "name the two that were made together, and put the server's certificate before those that vouch for it"
    )


def test_a_key_with_a_password_is_not_asked_for(tls, tmp_path):
    locked = tmp_path / "locked.pem"
    command = ["openssl", "pkey", "-in", tls.key, "-aes256", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    assert f"{locked} is locked with a password" in problem(Tls(cert=tls.cert, key=str(locked)))


def test_the_warnings(tls, tmp_path):
    keys = {TLS: read_certificate(tls)}
    os.chmod(tls.key, 0o640)
    assert certificate_warnings(None, {}) == []
    assert certificate_warnings(tls, keys) == []
    [late] = certificate_warnings(tls, keys, time.time() + 3 * DAY)
    assert re.fullmatch(rf"\[server\.tls\] cert: {tls.cert} expired on \d{{4}}-\d\d-\d\d: .+", late)
    [early] = certificate_warnings(tls, keys, time.time() - DAY)
    assert "is not valid before" in early
    os.chmod(tls.key, 0o644)
    assert "every user of this machine can read or write" in certificate_warnings(tls, keys)[0]


def test_dates_after_2049_are_written_otherwise(tmp_path):
    self_signed(tmp_path, days=20_000)
    tls = tls_of(tmp_path / "both.pem")
    os.chmod(tls.key, 0o600)
    keys = {TLS: read_certificate(tls)}
    assert certificate_warnings(tls, keys) == []
    assert certificate_warnings(tls, keys, time.time() + 20_001 * DAY) != []
