"""The files of the dashboard over HTTP; `tests/integration/test_dashboard.py` looks at the page."""

import json
import re

import pytest
from fakes.gateway import make_config, serve_gateway

from shared.config import Auth
from worker.endpoints.dashboard import FILES, FOLDER

TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}


def path_of(name):
    return "/" if name == "index.html" else f"/static/{name}"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
async def test_each_file_comes_whole_and_safe(gateway, name):
    client = await gateway.connect()
    head, body = await client.get(path_of(name))
    assert head.status == 200
    assert body == (FOLDER / name).read_bytes()
    assert head.headers["content-type"] == TYPES[name.rpartition(".")[2]]
    assert head.headers["cache-control"] == "no-cache"
    assert head.headers["x-content-type-options"] == "nosniff"
    assert head.headers["x-frame-options"] == "DENY"
    assert head.headers["referrer-policy"] == "no-referrer"
    assert "x-request-id" in head.headers
    policy = dict(part.split(" ", 1) for part in head.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in head.headers["content-security-policy"]


async def test_head_and_what_is_known_already(gateway):
    client = await gateway.connect()
    head, body = await client.get("/static/main.js")
    etag = head.headers["etag"]
    await client.request("HEAD", "/static/main.js")
    answer = await client.head()
    assert (answer.status, answer.headers["content-length"]) == (200, str(len(body)))
    assert answer.headers["etag"] == etag
    client = await gateway.connect()
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer, body = await client.get("/static/main.js", if_none_match=known)
        assert (answer.status, body, answer.headers["etag"]) == (304, b"", etag)
        assert "content-security-policy" in answer.headers
    answer, _ = await client.get("/static/main.js", if_none_match='"other"')
    assert answer.status == 200
    assert len({file.etag for file in FILES.values()}) == len(FILES)


@pytest.mark.parametrize(
    "path", ["/static/", "/static/nope.js", "/static/../dashboard.py", "/static/..%2f..%2fapp.py", "/static/%00"]
)
async def test_there_are_no_other_files(gateway, path):
    client = await gateway.connect()
    head, body = await client.get(path)
    assert head.status == 404
    assert json.loads(body)["error"]["type"] == "not_found_error"
    head, _ = await client.get("/static/main.js", "POST")
    assert (head.status, head.headers["allow"]) == (405, "GET, HEAD")


async def test_the_page_needs_no_key_but_its_data_do(upstream):
    async with serve_gateway(make_config(upstream, auth=Auth(("secret",)))) as gateway:
        client = await gateway.connect()
        for name in FILES:
            assert (await client.get(path_of(name)))[0].status == 200
        for path in ("/api/status", "/api/sessions/active", "/api/streams", "/api/stats", "/api/export", "/ws"):
            client = await gateway.connect()
            assert (await client.get(path))[0].status == 401, path


async def test_a_page_of_another_name_gets_nothing(gateway):
    client = await gateway.connect()
    assert (await client.get("/", host="rebound.example"))[0].status == 403


def test_nothing_comes_from_elsewhere():
    for name, file in FILES.items():
        text = file.body.decode()
        addresses = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"')]*", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name
        for imported in re.findall(r'(?:from|import) "\./([^"]+)"', text):
            assert imported in FILES, (name, imported)
        for linked in re.findall(r'(?:href|src)="/static/([^"]+)"', text):
            assert linked in FILES, (name, linked)


def test_no_text_becomes_html():
    for name, file in FILES.items():
        found = re.findall(
            rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc", file.body
        )
        assert not found, (name, found)
    page = FILES["index.html"].body
    assert not re.search(rb"<script(?![^>]* src=)|<style|\son[a-z]+=|\sstyle=", page)


def test_a_file_is_read_in_one_sitting():
    for name, file in FILES.items():
        assert file.body.count(b"\n") <= 300, name
