"""URLs that some reader would take for more than a bucket and a prefix, and URLs that hold a secret."""

from __future__ import annotations

import pytest

from flows.settings import Settings
from splitfire_batch.config import CatalogueConfig, RuntimeConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.storage.faults import SCHEMES
from splitfire_batch.storage.urls import parse_url, refuse_secrets

SECRETS = [
    "s3://key:hunter2@bucket/x",
    "s3://bucket/x?X-Amz-Credential=a&X-Amz-Signature=hunter2",
    "https://bucket.s3.amazonaws.com/x?X-Amz-Signature=hunter2",
    "az://container/x?sv=1&sig=hunter2",
    "https://user:hunter2@host/weights",
]


def test_only_these_kinds_of_stores_exist() -> None:
    assert set(SCHEMES) == {"file", "memory", "s3", "gs", "az", "abfs"}


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket?versionId=7/x",
        "s3://bucket#x/y",
        "s3://buck%65t/x",
        "s3://buck et/x",
        "s3://bucket\\@evil/x",
        "s3://bucket\n/x",
        "gs://user@bucket/x",
        "az://account@container/x",
        "S3://bucket/x",
        "s3:///x",
        "s3://bucket/a/../../other/x",
        "filecache::s3://bucket/x",
        "s3://bucket::http://evil/x",
        "http://169.254.169.254/latest/meta-data",
        "github://org:repo@/x",
        "jar:file:///x",
    ],
)
def test_whatever_could_reach_beyond_a_bucket_is_no_store(url: str) -> None:
    with pytest.raises(ConfigError):
        parse_url(url)


@pytest.mark.parametrize("url", SECRETS)
def test_a_job_with_a_secret_in_a_url_is_refused_before_anybody_stores_it(url: str) -> None:
    places = {"source": "a", "destination": "b"}
    for name in places:
        with pytest.raises(ConfigError) as error:
            Settings().job(**{**places, name: url}, replace=False)
        assert "hunter2" not in str(error.value)
    with pytest.raises(ConfigError) as error:
        Settings(catalogue=CatalogueConfig(allow_root=("s3://fine", url))).job("a", "b", False)
    assert "hunter2" not in str(error.value)


def test_a_mirror_with_a_signature_is_refused() -> None:
    runtime = RuntimeConfig(weights_mirror="az://weights?sig=hunter2")
    with pytest.raises(ConfigError, match="found 'az://weights' with a password, key or signature"):
        Settings(runtime=runtime).job("a", "b", False)


def test_urls_without_secrets_pass() -> None:
    refuse_secrets("s3://bucket/music/what?x=7.wav", "/home/me@work/x", None, "gs://bucket")
