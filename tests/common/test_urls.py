import pytest

from est_cli.common.redact import without_secrets
from est_cli.common.urls import is_url, url_problem

GOOD = (
    *("https://example.com/a.jsonl", "https://example.com:8443/a%20b/c.txt", "HTTPS://example.com/a.txt"),
    *("http://127.0.0.1:80/a.txt", "http://localhost/a.txt", "http://[::1]:80/a.txt", "http://127.9.9.9/a.txt"),
    *("s3://bucket/a.txt", "s3://bucket/**/*.txt", "s3://bucket/a?[0-9].txt", "gs://bucket/a#b.txt"),
    "hf://datasets/user/name@main/a.jsonl",
)
BAD = {
    "ftp://example.com/a.txt": "ftp:// is not read; https://, s3://, gs:// and hf:// are",
    "file:///etc/passwd": "file:// is not read",
    "http://example.com/a.txt": "anybody on the way can change what http:// brings; use https://",
    "http://localhost.example.com/a.txt": "use https://",
    "http://127.0.0.1.example.com/a.txt": "use https://",
    "https://example.com/a.txt?X-Amz-Signature=CANARY": "what follows ? may be a signature",
    "https://example.com/a.txt#CANARY": "may be a signature",
    "https://example.com/*.txt": "https:// cannot list a folder; name each file",
    "https://example.com/": "names no file",
    "s3://bucket": "names no file",
    "https:///a.txt": "names no file",
}


@pytest.mark.parametrize("url", GOOD)
def test_addresses_that_are_read(url: str) -> None:
    assert is_url(url) and url_problem(url) is None


@pytest.mark.parametrize("url", BAD)
def test_addresses_that_are_refused(url: str) -> None:
    problem = url_problem(url)
    assert is_url(url) and problem is not None and BAD[url] in problem
    assert "CANARY" not in problem


@pytest.mark.parametrize("path", ["corpus/a.txt", "/a.txt", "a:b.txt", "C:\\a.txt", "https:/a.txt", "~/a.txt"])
def test_paths_are_none(path: str) -> None:
    assert not is_url(path)


def test_what_may_be_a_secret_is_left_out() -> None:
    text = "dataset.files=[https://u:CANARY@h/a.txt?sig=CANARY,s3://b/c.txt]"
    assert without_secrets(text) == "dataset.files=[https://h/a.txt?...,s3://b/c.txt]"
