"""`kimi-proxy stats` and `kimi-proxy export`, on a database whose service does not run."""

import csv
import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from fakes.streams import make_record, make_start

from shared.errors import ControlError
from shared.history import parameters
from shared.paths import resolve_paths
from shared.records import Tokens
from supervisor import cli, database
from supervisor.cli import source
from supervisor.cli.arguments import make_parser
from supervisor.schema import COLUMNS

ROOT = Path(__file__).parents[2]
DAY = 86_400.0
NOON = 1_700_049_600.0
"""2023-11-15T12:00:00Z."""


@pytest.fixture
def paths(tmp_path, monkeypatch):
    for name in ("STATE", "RUNTIME", "LOGS"):
        (tmp_path / name.lower()).mkdir()
        monkeypatch.setenv(f"{name}_DIRECTORY", str(tmp_path / name.lower()))
    monkeypatch.chdir(tmp_path)
    return resolve_paths(os.environ)


def record(id, started=NOON, *, session=None, provider="kimi", model="kimi-k2", **changes):
    start = make_start(id, started=started, session=session, provider=provider, model=model)
    return make_record(start=start, provider=provider, **changes)


RECORDS = [
    record("a", session="mine", first_byte=0.2, duration=1.2, cost=0.0105),
    record("b", NOON + 60, session="mine", first_byte=0.4, duration=2.4, cost=0.02),
    record("c", NOON + DAY, provider="groq", model="llama", status="failed", error_type="ReadError", completion=None),
    record("d", NOON + 2 * DAY, model="=SUM(1)", session="\x1b[2J月", status="cancelled", error_type="admin"),
]


def write(paths, records):
    opened = database.connect(paths.database, NOON)
    assert opened.write(records) == []
    opened.close()


@pytest.fixture
def history(paths):
    write(paths, RECORDS)
    return paths


# stats


def test_sums_by_day(history, capsys):
    assert cli.main(["stats"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "DAY         STREAMS  COMPLETED  CANCELLED  FAILED  PROMPT  COMPLETION    COST  TTFB P50  TTFB P95  TOKENS/S",
        "2023-11-15        2          2          0       0      20          40  0.0305     0.200     0.400      13.3",
        "2023-11-16        1          0          0       1      10           0       -         -         -         -",
        "2023-11-17        1          0          1       0      10          20       -         -         -         -",
        "all               4          2          1       1      40          60  0.0305     0.200     0.400      13.3",
    ]
    assert captured.err == ""


@pytest.mark.parametrize(
    ("by", "heading", "keys"),
    [
        ("provider", "PROVIDER", ["kimi", "groq", "all"]),
        ("model", "MODEL", ["kimi-k2", "=SUM(1)", "llama", "all"]),
        ("session", "SESSION", ["mine", "?[2J月", "all"]),
        ("error_type", "ERROR TYPE", ["ReadError", "admin", "all"]),
        ("month", "MONTH", ["2023-11", "all"]),
        ("client", "CLIENT", ["-", "all"]),
    ],
)
def test_sums_by_others(history, capsys, by, heading, keys):
    assert cli.main(["stats", "--by", by]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith(heading)
    assert [row.split()[0] for row in rows] == keys


def test_sums_by_time(history, capsys):
    assert cli.main(["stats", "--by", "time", "--since", "2023-11-15", "--until", "2023-11-16"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].startswith("2023-11-15 12:00:00        2")
    assert cli.main(["stats", "--by", "time", "--bucket", "1d", "--since", "2023-11-15", "--until", "2023-11-16"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].startswith("2023-11-15 00:00:00        2")


def test_filters(history, capsys):
    assert cli.main(["stats", "--since", "2023-11-15T12:00:30Z", "--provider", "kimi", "--provider", "other"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["all", "2"]


def test_sums_for_programs(history, capsysbinary):
    assert cli.main(["stats", "--by", "session", "--json", "--until", "2030-01-01"]) == 0
    told = json.loads(capsysbinary.readouterr().out)
    assert (told["since"], told["until"], told["by"]) == (None, 1_893_456_000.0, "session")
    assert told["totals"]["streams"] == 4
    assert [group["key"] for group in told["groups"]] == ["mine", "\x1b[2J月"]
    assert told["groups"][0]["cost"] == 0.0305


def test_no_streams(history, capsysbinary):
    assert cli.main(["stats", "--provider", "nobody"]) == 0
    assert capsysbinary.readouterr() == (b"", b"kimi-proxy: no streams\n")
    assert cli.main(["stats", "--provider", "nobody", "--json"]) == 0
    assert json.loads(capsysbinary.readouterr().out)["totals"]["streams"] == 0


def test_more_groups_than_are_shown(paths, capsys):
    write(paths, [record(str(number), session=f"s{number}") for number in range(1001)])
    assert cli.main(["stats", "--by", "session"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1 + 1000 + 1
    assert captured.err == "kimi-proxy: there are more than these 1000; --since, --until and the other filters choose\n"


@pytest.mark.parametrize("command", ["stats", "export"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--since", "yesterday"], "kimi-proxy: --since: needed are epoch seconds, a date or time ("),
        (["--min-duration", "long"], "kimi-proxy: --min-duration: a number of seconds is needed, not 'long'\n"),
        (["--status", "fine"], "kimi-proxy: --status: needed is completed or cancelled or failed, not 'fine'\n"),
        (["--since", "1h", "--until", "2h"], "kimi-proxy: --since must be before `until`\n"),
    ],
)
def test_filters_that_make_no_sense(history, capsys, command, arguments, said):
    assert cli.main([command, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(said)


def test_a_period_or_property_that_is_none(history, capsys):
    assert cli.main(["stats", "--by", "week"]) == 2
    assert capsys.readouterr().err.startswith("kimi-proxy: --by: needed is provider or ")
    assert cli.main(["stats", "--by", "time", "--bucket", "wide"]) == 2
    assert capsys.readouterr().err == "kimi-proxy: --bucket: a width is needed, as in 30s, 5m, 1h, not 'wide'\n"
    assert cli.main(["stats", "--bucket", "5m"]) == 2
    assert capsys.readouterr().err == "kimi-proxy: --bucket goes with `by=time` only\n"


@pytest.mark.parametrize("command", ["stats", "export"])
def test_there_is_an_option_for_each_filter(command):
    given = vars(make_parser().parse_args([command]))
    assert set(parameters.FILTERS) <= set(given)


@pytest.mark.parametrize("command", [["stats"], ["export"], ["backup", "copy.db"]])
def test_no_database(paths, capsys, command):
    assert cli.main(command) == 1
    assert capsys.readouterr() == (
        "",
        f"kimi-proxy: there is no database at {paths.database}; the first start of the service makes it\n",
    )


@pytest.mark.parametrize("command", [["stats"], ["export"], ["export", "-o", "out.csv"], ["backup", "copy.db"]])
def test_a_database_that_is_none(paths, capsys, command):
    paths.database.write_bytes(b"This is no database, whatever its name may be." * 100)
    assert cli.main(command) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (f"kimi-proxy: {paths.database}: the database can't be used (file is not a database)\n")
    assert sorted(os.listdir()) == ["logs", "runtime", "state"]


@pytest.mark.parametrize(("version", "cure"), [(1, "start the service, which upgrades it"), (99, "upgrade kimi-proxy")])
def test_a_database_of_another_version(history, capsys, version, cure):
    with closing(sqlite3.connect(history.database)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    for command in ("stats", "export"):
        assert cli.main([command]) == 1
        assert cure in capsys.readouterr().err


# export


def test_an_export_to_stdout(history, capsysbinary):
    assert cli.main(["export"]) == 0
    captured = capsysbinary.readouterr()
    rows = list(csv.DictReader(captured.out.decode().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert [row["id"] for row in rows] == ["d", "c", "b", "a"]
    assert rows[0]["model"] == "'=SUM(1)"  # no spreadsheet takes it for a formula
    assert captured.err == b""


def test_an_export_as_json_of_some(history, capsysbinary):
    assert cli.main(["export", "--format", "json", "--session", "mine", "-o", "-"]) == 0
    told = json.loads(capsysbinary.readouterr().out)
    assert [row["id"] for row in told] == ["b", "a"]
    assert told[0]["streaming"] is True


def test_an_export_of_more_than_a_page(paths, capsysbinary):
    write(paths, [record(str(number), NOON + number % 7) for number in range(2500)])
    assert cli.main(["export", "--format", "json"]) == 0
    told = json.loads(capsysbinary.readouterr().out)
    assert sorted(int(row["id"]) for row in told) == list(range(2500))


def test_an_export_to_a_file(history, tmp_path, capsys):
    target = tmp_path / "out.csv"
    assert cli.main(["export", "-o", "out.csv"]) == 0
    assert capsys.readouterr() == ("", "")
    assert len(target.read_text().splitlines()) == 5
    target.chmod(0o640)
    assert cli.main(["export", "-o", "out.csv", "--status", "failed"]) == 0
    assert len(target.read_text().splitlines()) == 2
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    (tmp_path / "link.csv").symlink_to("out.csv")
    assert cli.main(["export", "-o", "link.csv"]) == 0
    assert len(target.read_text().splitlines()) == 5
    assert (tmp_path / "link.csv").is_symlink()


def test_a_file_that_can_not_be(history, tmp_path, capsys):
    assert cli.main(["export", "-o", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"kimi-proxy: {tmp_path} is a folder: name a file in it\n"
    assert cli.main(["export", "-o", "nowhere/out.csv"]) == 1
    assert capsys.readouterr().err == f"kimi-proxy: {tmp_path}/nowhere/out.csv: No such file or directory\n"
    assert cli.main(["export", "-o", "/dev/full"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert cli.main(["export", "--format", "xml"]) == 2
    assert capsys.readouterr().err == "kimi-proxy: --format: needed is csv or json, not 'xml'\n"


def test_an_export_into_a_named_pipe(history, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    assert cli.main(["export", "-o", str(pipe)]) == 0
    reader.join(10)
    assert len(read[0].splitlines()) == 5
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_an_interrupted_export_leaves_the_file_as_it_was(history, tmp_path, capsys, monkeypatch):
    target = tmp_path / "out.csv"
    target.write_text("old")

    def interrupted(_rows, _limit):
        assert len(list(tmp_path.glob(".kimi-proxy-*.new"))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr("shared.history.queries.page_of", interrupted)
    assert cli.main(["export", "-o", "out.csv"]) == 130
    assert target.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["logs", "out.csv", "runtime", "state"]


def test_a_reader_that_leaves_is_no_error(paths):
    """As in `kimi-proxy export | head -1`."""
    write(paths, [record(str(number)) for number in range(5000)])
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor", "export"],
        cwd=ROOT,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline().startswith(b"id,trace")
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


# Which database


def not_permitted(permissions, path, mode):
    """`os.access` as it answers a user without these; tests may run as root."""
    return not mode & permissions and os.path.exists(path)


def test_a_database_of_somebody_else(history, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", partial(not_permitted, os.R_OK))
    assert cli.main(["stats"]) == 1
    assert capsys.readouterr().err == (
        f"kimi-proxy: not permitted to read {history.database}; use the user the service runs as, or sudo\n"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_of_somebody_else(history, capsys):
    history.state.chmod(0)
    try:
        assert cli.main(["stats"]) == 1
    finally:
        history.state.chmod(0o700)
    assert "use the user the service runs as, or sudo" in capsys.readouterr().err


def test_a_folder_that_is_read_only(history, capsys, monkeypatch):
    """SQLite reads a database with a log by help of a file beside it, which could not be made there."""
    monkeypatch.setattr(os, "access", partial(not_permitted, os.W_OK))
    before = sorted(os.listdir(history.state))
    assert cli.main(["stats"]) == 0
    assert sorted(os.listdir(history.state)) == before == ["sessions.db"]


@pytest.fixture
def system(tmp_path):
    """A system's state folder with a database in it."""
    folder = tmp_path / "var"
    folder.mkdir()
    (folder / "sessions.db").touch()
    return folder


def test_ones_own_database_comes_first(tmp_path, system):
    env = {"STATE_DIRECTORY": str(tmp_path / "state"), "RUNTIME_DIRECTORY": str(tmp_path)}
    assert source.database_path(env, system) == tmp_path / "state" / "sessions.db"  # named: nothing else is meant


def test_the_system_s_database_where_there_is_no_other(tmp_path, system, monkeypatch):
    for name in ("STATE", "RUNTIME", "LOGS"):
        monkeypatch.delenv(f"{name}_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert source.database_path({}, system) == system / "sessions.db"
    own = tmp_path / "kimi-proxy" / "sessions.db"
    own.parent.mkdir()
    own.touch()
    assert source.database_path({}, system) == own


def test_the_system_s_database_when_its_service_is_meant(tmp_path, system, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    own = tmp_path / "kimi-proxy" / "sessions.db"
    own.parent.mkdir()
    own.touch()
    monkeypatch.setattr(source, "control_paths", lambda _: resolve_paths({"RUNTIME_DIRECTORY": "/run/kimi-proxy"}))
    assert source.database_path({}, system) == system / "sessions.db"


def test_a_service_of_somebody_else_is_no_reason_to_fail(tmp_path, system, monkeypatch):
    def refuse(_env):
        raise ControlError("the lock file can't be opened: Permission denied; …, use sudo")

    monkeypatch.setattr(source, "control_paths", refuse)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(ControlError, match="use sudo"):
        source.database_path({}, system)
    own = tmp_path / "kimi-proxy" / "sessions.db"
    own.parent.mkdir()
    own.touch()
    assert source.database_path({}, system) == own


def test_counted_tokens_are_told(paths, capsys):
    write(paths, [record("a", prompt=Tokens(5, "counted"), completion=Tokens(7, "partial"))])
    assert cli.main(["stats"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[5:7] == ["5", "7"]
