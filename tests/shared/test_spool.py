"""Files of records that could not be handed over."""

import os
import stat

import pytest
from fakes.streams import make_record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.framing import frame
from shared.messages import Ready, StreamEnded, encode
from shared.spool import find_spools, read_spool, set_aside, write_spool

RECORDS = [make_record("a"), make_record("b", status="failed", error_type="ReadError")]
PAYLOADS = [encode(StreamEnded(record)) for record in RECORDS]
WHOLE = b"".join(map(frame, PAYLOADS))


def test_what_is_written_can_be_read(tmp_path):
    folder = tmp_path / "state" / "spool"
    path = write_spool(folder, PAYLOADS)
    assert find_spools(folder) == [path]
    assert path.name.startswith(f"{os.getpid()}-")
    spool = read_spool(path)
    assert (spool.records, spool.damage) == (RECORDS, None)
    assert list(folder.iterdir()) == [path]


def test_it_is_closed_to_others(tmp_path):
    path = write_spool(tmp_path / "spool", PAYLOADS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_two_of_one_process_are_two_files(tmp_path):
    paths = {write_spool(tmp_path, PAYLOADS[:1]), write_spool(tmp_path, PAYLOADS[1:])}
    assert set(find_spools(tmp_path)) == paths
    assert len(paths) == 2


def test_a_folder_that_does_not_exist_holds_nothing(tmp_path):
    assert find_spools(tmp_path / "none") == []


def test_drafts_and_files_set_aside_are_not_found(tmp_path):
    (tmp_path / "1-1.new").write_bytes(WHOLE)
    path = write_spool(tmp_path, PAYLOADS)
    kept_as = set_aside(path)
    assert kept_as.name == f"{path.name}.corrupt"
    assert kept_as.read_bytes() == WHOLE
    assert find_spools(tmp_path) == []


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_spool(tmp_path, PAYLOADS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "records"),
    [
        (WHOLE[:-1], RECORDS[:1]),
        (WHOLE + b"\0", RECORDS),
        (WHOLE + b"\xff" * 8, RECORDS),
        (WHOLE + frame(b"\xc1"), RECORDS),
        (WHOLE + frame(encode(Ready(pid=1, generation=1))), RECORDS),
        (frame(b"{}") + WHOLE, []),
        (b"this is no spool at all", []),
    ],
    ids=["torn", "a byte too much", "oversized", "no message", "no record", "garbage first", "text"],
)
def test_what_stands_before_the_damage_is_read(tmp_path, content, records):
    path = tmp_path / "1-1.frames"
    path.write_bytes(content)
    spool = read_spool(path)
    assert spool.records == records
    assert spool.damage
    assert path.exists()


@given(st.binary(max_size=200), st.integers(0, len(WHOLE)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_records_are_found_in_front_of_any_bytes(tmp_path, garbage, cut):
    path = tmp_path / "1-1.frames"
    path.write_bytes(WHOLE[:cut] + garbage)
    spool = read_spool(path)
    whole = (cut >= len(frame(PAYLOADS[0]))) + (cut == len(WHOLE))
    assert spool.records[:whole] == RECORDS[:whole]
    assert spool.damage is not None or len(spool.records) == whole or garbage
