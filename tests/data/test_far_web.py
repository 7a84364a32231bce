"""Files on a web server that breaks in every way, against the same files here."""

import gzip
import io
import itertools
import logging
import shutil
import ssl
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from est_cli.common.errors import DataError
from est_cli.config import DatasetConfig
from est_cli.data.text import units
from est_cli.data.text.far import FarReader, ask, reader, web
from est_cli.data.text.pieces import Limit, quiet
from est_cli.data.text.sources import open_sources
from est_cli.data.text.units import read_units
from tests.lab.corpora import documents, files, write_jsonl
from tests.lab.web import Site, certificate, serving


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(web, "TIMEOUT_S", 5.0)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(Site()) as site:
        yield site


def jsonl(tmp_path: Path, count: int = 40, seed: int = 0) -> bytes:
    return write_jsonl(tmp_path / "made.jsonl", documents(count, seed)).read_bytes()


def texts(dataset: DatasetConfig, tmp_path: Path) -> list[str]:
    (source,) = open_sources(dataset, tmp_path / "cache")
    return [piece.text for piece in read_units(source.train, quiet)]


def test_every_kind_is_read_as_the_same_file_here(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BLOCK", 1000)
    table = pa.table({"text": documents(60), "number": list(range(60))})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=20)
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "a.txt").write_text("\n".join(documents(30)))
    (tmp_path / "a.jsonl").write_bytes(jsonl(tmp_path))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl(tmp_path)))
    (tmp_path / "B%20b.TXT").write_text("")
    names = ["a.parquet", "a.arrow", "a.txt", "a.jsonl", "a.jsonl.gz", "B%20b.TXT"]
    site.files = {name: (tmp_path / name).read_bytes() for name in names}
    for name in names:
        assert texts(files(site.url(name)), tmp_path) == texts(files(tmp_path / name), tmp_path), name
    assert site.sent["a.parquet"] < 1.2 * len(site.files["a.parquet"]), "blocks that are held are not fetched again"


def test_a_broken_transfer_goes_on_at_the_byte_where_it_broke(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.files = {"a.jsonl": jsonl(tmp_path)}
    (source,) = open_sources(files(site.url("a.jsonl")), tmp_path / "cache")
    site.faults, site.asked = deque(["cut", 503, "drop", "cut", 429]), []
    assert [piece.text for piece in read_units(source.train, quiet)] == documents(40)
    size = len(site.files["a.jsonl"])
    half, quarter = size // 2, size // 2 + (size - size // 2) // 2
    assert [start for _, start in site.asked[:-1]] == [0, half, half, half, quarter, quarter]
    assert site.sent["a.jsonl"] <= size + 2, "no byte of the text came twice"
    assert caplog.text.count("again in") == 5


def test_it_is_given_up_in_the_end_and_each_wait_is_longer(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(reader, "FIRST_WAIT_S", 1.0)
    monkeypatch.setattr(reader, "sleep", waits.append)
    site.files, site.faults = {"a.txt": b"text"}, deque([500] * 99)
    with pytest.raises(DataError, match=r"a\.txt: the server answers 500; tried 7 times in a row, start again"):
        texts(files(site.url("a.txt")), tmp_path)
    assert waits == [1, 2, 4, 8, 16, 32]
    site.faults, site.headers = deque([429]), {"Retry-After": "7"}
    assert texts(files(site.url("a.txt")), tmp_path) == ["text"]
    assert waits[6:] == [7]


def test_tries_are_counted_anew_when_bytes_came(site: Site, tmp_path: Path) -> None:
    site.files = {"a.txt": b"x" * 100_000}
    (source,) = open_sources(files(site.url("a.txt")), tmp_path / "cache")
    site.faults = deque(["cut", 500, 500, 500, 500] * 4)
    assert "".join(piece.text for piece in read_units(source.train, quiet)) == "x" * 100_000


def test_no_answer_in_time_is_tried_again(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TIMEOUT_S", 0.2)
    site.files, site.delay_s = {"a.txt": b"text"}, 0.5
    answers = itertools.count(1)

    def recover(site: Site) -> None:
        site.delay_s = 0.5 if next(answers) < 3 else 0.0

    site.before = recover
    assert texts(files(site.url("a.txt")), tmp_path) == ["text"]


def test_a_server_without_ranges_is_read_from_its_beginning_again(site: Site, tmp_path: Path) -> None:
    site.files, site.ranges = {"a.jsonl": jsonl(tmp_path), "a.parquet": b"", "b.arrow": b"x"}, False
    (source,) = open_sources(files(site.url("a.jsonl")), tmp_path / "cache")
    site.faults = deque(["cut", "drop", "cut"])
    assert [piece.text for piece in read_units(source.train, quiet)] == documents(40)
    for name in ("a.parquet", "b.arrow"):
        with pytest.raises(DataError, match=r"gives no ranges of bytes, which \.(parquet|arrow) needs; download it"):
            texts(files(site.url(name)), tmp_path)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_changes_while_it_is_read_is_refused(site: Site, tmp_path: Path, ranges: bool) -> None:
    site.files, site.ranges = {"a.jsonl": jsonl(tmp_path)}, ranges
    (source,) = open_sources(files(site.url("a.jsonl")), tmp_path / "cache")
    site.faults = deque(["cut"])
    read = read_units(source.train, quiet)
    site.before = lambda site: setattr(site, "tag", '"1"' if len(site.asked) < 2 else '"2"')
    with pytest.raises(DataError, match=r"a\.jsonl: has changed while it was read; start again"):
        list(read)
    assert len(site.asked) == 3, "it is seen when the transfer goes on, and no byte of the other text is taken"


def test_a_file_that_has_changed_when_it_was_read_is_refused(site: Site, tmp_path: Path) -> None:
    """All its bytes came before: the server is asked once more at the end."""
    site.files = {"a.txt": b"text"}
    (source,) = open_sources(files(site.url("a.txt")), tmp_path / "cache")
    asked = len(site.asked)
    site.before = lambda site: setattr(site, "tag", '"1"' if len(site.asked) < asked + 1 else '"2"')
    with pytest.raises(DataError, match=r"a\.txt: has changed while it was read"):
        list(read_units(source.train, quiet))


def test_the_fingerprint_follows_what_the_server_says(site: Site, tmp_path: Path) -> None:
    site.files = {"a.txt": b"text", "b.txt": b"text"}

    def prints(name: str = "a.txt") -> str:
        (source,) = open_sources(files(site.url(name)), tmp_path / "cache")
        return source.train[0].fingerprint

    first = prints()
    assert prints() == first != prints("b.txt")
    site.tag = '"2"'
    second = prints()
    assert second != first
    site.files["a.txt"] = b"text."
    assert prints() not in (first, second)


def test_large_files_are_cut_into_spans_and_taken_in_part(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "UNIT_BYTES", 1500)
    monkeypatch.setattr(reader, "BLOCK", 400)
    site.files = {"a.jsonl": jsonl(tmp_path)}
    (source,) = open_sources(files(site.url("a.jsonl")), tmp_path / "cache")
    assert len(source.train) > 5
    assert [piece.text for piece in read_units(source.train, quiet)] == documents(40)
    (part,) = open_sources(files(site.url("a.jsonl"), max_documents=5), tmp_path / "cache")
    site.sent.clear()
    list(read_units([part.train[0]], quiet))
    assert part.part == Limit(None, 5) and site.sent["a.jsonl"] < 1500 + 3 * 400
    site.ranges = False
    (whole,) = open_sources(files(site.url("a.jsonl")), tmp_path / "cache")
    assert len(whole.train) == 1


def test_a_bad_line_of_a_span_is_told_by_its_byte(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "UNIT_BYTES", 1000)
    good = jsonl(tmp_path, 30)
    site.files = {"a.jsonl": good + b"{bad\n"}
    with pytest.raises(DataError, match=rf"a\.jsonl:byte {len(good)}: not JSON"):
        texts(files(site.url("a.jsonl")), tmp_path)


REFUSED = {
    "missing": ({}, r"nothing\.txt: the server answers 404 Not Found"),
    "login": ({"faults": deque([401])}, r"the server answers 401 Unauthorized; est sends no login to web servers"),
    "page": ({"content_type": "text/html; charset=utf-8"}, "answers with a web page; is it the file's own address?"),
    "identity": ({"tags": False}, "tells neither ETag nor Last-Modified"),
    "length": ({"ranges": False, "length": False}, "does not tell the file's length; download it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_at_once(site: Site, tmp_path: Path, case: str) -> None:
    settings, message = REFUSED[case]
    site.files = {"a.txt": b"text"}
    for name, value in settings.items():
        setattr(site, name, value)
    with pytest.raises(DataError, match=message):
        texts(files(site.url("nothing.txt" if case == "missing" else "a.txt")), tmp_path)
    assert len(site.asked) == 1


def test_redirects_lead_to_a_signed_address_that_is_never_told(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site.files = {"real?signature=CANARY": b"text"}
    site.redirects = {"a.txt": site.url("real?signature=CANARY"), "b.txt": "http://example.com/x?signature=CANARY"}
    site.faults = deque([None, 503, None, 503])  # type: ignore[list-item]
    assert texts(files(site.url("a.txt")), tmp_path) == ["text"]
    with pytest.raises(DataError, match=r"sends us on to http://example\.com, which is not read$") as refused:
        texts(files(site.url("b.txt")), tmp_path)
    assert "again in" in caplog.text
    assert "CANARY" not in caplog.text + str(refused.value)


def test_a_web_page_elsewhere_may_not_lead_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    request = web.urllib.request.Request("https://example.com/a.txt")
    with pytest.raises(DataError, match=r"sends us on to http://127\.0\.0\.1"):
        web._Redirects().redirect_request(request, io.BytesIO(), 302, "", {}, "http://127.0.0.1/secret")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_certificates_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with serving(Site({"a.txt": b"text"}), context) as site:
        with pytest.raises(DataError, match=r"certificate is not trusted \(self.signed certificate\); SSL_CERT_FILE"):
            texts(files(site.url("a.txt")), tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        assert texts(files(site.url("a.txt")), tmp_path) == ["text"]


def test_the_proxy_of_the_environment_is_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy is asked for the whole address."""
    monkeypatch.setenv("http_proxy", site.url(""))
    monkeypatch.setenv("no_proxy", "")
    site.files = {"http://localhost:1/a.txt": b"text"}
    assert ask("http://localhost:1/a.txt").size == 4


def test_the_same_address_twice_or_on_both_sides(site: Site, tmp_path: Path) -> None:
    site.files = {"a.jsonl": jsonl(tmp_path, 3)}
    url = site.url("a.jsonl")
    assert texts(files(url, url), tmp_path) == documents(3)
    with pytest.raises(DataError, match=r"a\.jsonl is in dataset\.files too"):
        texts(files(url, validation_files=[url]), tmp_path)
    with pytest.raises(DataError, match="is in two entries"):
        open_sources(files(url, url, weights=[1.0, 1.0]), tmp_path / "cache")


def test_the_reader_seeks_and_counts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BLOCK", 10)
    site.files = {"a.txt": bytes(range(95))}
    counted: list[int] = []
    stream = FarReader(ask(site.url("a.txt")), counted.append, kept=3)
    assert stream.seek(-5, io.SEEK_END) == 90 and stream.read(100) == bytes(range(90, 95))
    assert stream.read(1) == b"" and stream.seek(7) == 7 and stream.read(2) == bytes([7, 8])
    assert io.BufferedReader(stream, 16).read() == bytes(range(9, 95))
    assert sum(counted) == 95 + 5, "the last block was given up for others"
