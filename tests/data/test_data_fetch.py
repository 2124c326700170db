"""Where files come from: folders in their order, and downloads that count only when right."""

import gzip
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from pvae.data import data_names, describe_data, fetch, load_data, verify
from pvae.data.catalogue import CATALOGUE, DataFile, DataSet
from pvae.data.data_source import source_of
from pvae.data.readers import parse_idx
from pvae.errors import InputError

IMAGES = np.arange(20 * 4, dtype=np.uint8).reshape(20, 2, 2)
CONTENT = bytes([0, 0, 8, 3, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0, 0, 2]) + IMAGES.tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def places(tmp_path, monkeypatch):
    """An empty PVAE_DATA and PVAE_CACHE, and a set ``tiny`` of one IDX file that is nowhere yet."""
    for variable, name in {"PVAE_DATA": "data", "PVAE_CACHE": "cache"}.items():
        (tmp_path / name / "tiny").mkdir(parents=True)
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.delenv("PVAE_MIRROR", raising=False)
    read = lambda content: source_of("tiny", {"x": parse_idx(content, "tiny")})
    tiny = DataSet("a tiny set", (DataFile("tiny-ubyte.gz", SHA256, 1000),), read)
    monkeypatch.setitem(CATALOGUE, "tiny", tiny)
    return tmp_path


@pytest.fixture
def mirror(places, monkeypatch):
    """A folder behind a local server that PVAE_MIRROR names."""
    folder = places / "mirror" / "tiny"
    folder.mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder.parent)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("PVAE_MIRROR", f"http://127.0.0.1:{server.server_port}/")
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def _refused(call) -> str:
    with pytest.raises(InputError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    return text


def test_the_catalogue_names_its_sets():
    assert data_names() == ["digits", "freyfaces", "mnist", "mnist_static", "multi_digits", "sprites"]
    assert [row[0] for row in describe_data()] == data_names()
    assert describe_data()[0][2:] == (True, "scikit-learn")
    assert verify("digits") == ["digits: scikit-learn, no file to check"]
    assert verify("sprites") == ["sprites: generated, no file to check"]
    assert all(len(file.sha256) == 64 for known in CATALOGUE.values() for file in known.files)
    assert "did you mean 'mnist'" in _refused(lambda: verify("mnits"))


@pytest.mark.parametrize("level", [0, 1, 9, None])
def test_a_recompressed_file_passes(places, level):
    content, name = (CONTENT, "tiny-ubyte") if level is None else (gzip.compress(CONTENT, level), "tiny-ubyte.gz")
    (places / "data" / "tiny" / name).write_bytes(content)
    assert np.array_equal(load_data("tiny", validation=0, test=0).train.x, IMAGES)
    assert str(places / "data" / "tiny" / name) in verify("tiny")[0]


def test_places_are_looked_at_in_their_order(places):
    wrong, right = gzip.compress(b"wrong"), gzip.compress(CONTENT)
    (places / "cache" / "tiny" / "tiny-ubyte.gz").write_bytes(right)
    assert load_data("tiny").train.size == 16
    (places / "data" / "tiny" / "tiny-ubyte.gz").write_bytes(wrong)
    assert "data/tiny/tiny-ubyte.gz has the wrong content" in _refused(lambda: load_data("tiny"))
    (places / "mine" / "tiny").mkdir(parents=True)
    (places / "mine" / "tiny" / "tiny-ubyte.gz").write_bytes(right)
    assert load_data("tiny", folder=places / "mine").train.size == 16


def test_wrong_content_names_both_checksums_and_is_left_alone(places):
    path = places / "data" / "tiny" / "tiny-ubyte.gz"
    path.write_bytes(gzip.compress(CONTENT[:-1] + b"\0"))
    text = _refused(lambda: load_data("tiny"))
    assert SHA256[:16] in text and hashlib.sha256(CONTENT[:-1] + b"\0").hexdigest()[:16] in text and path.exists()
    assert "wrong content" in _refused(lambda: verify("tiny"))
    path.write_bytes(gzip.compress(CONTENT)[:-12])
    assert "truncated gzip" in _refused(lambda: load_data("tiny"))


def test_a_file_that_is_nowhere_says_where_to_put_it(places):
    text = _refused(lambda: load_data("tiny"))
    assert "no public address" in text and "$PVAE_DATA/tiny/tiny-ubyte.gz" in text and "PVAE_MIRROR" in text
    assert str(places / "data" / "tiny") in text and str(places / "cache" / "tiny") in text
    assert _refused(lambda: verify("tiny")) == text
    assert ("tiny", "a tiny set", False, "") in describe_data()


def test_a_download_is_checked_and_kept(places, mirror, capfd):
    (mirror / "tiny-ubyte.gz").write_bytes(gzip.compress(CONTENT, 3))
    assert np.array_equal(load_data("tiny", validation=0, test=0).train.x, IMAGES)
    assert [path.name for path in (places / "cache" / "tiny").iterdir()] == ["tiny-ubyte.gz"]
    (mirror / "tiny-ubyte.gz").unlink()
    assert load_data("tiny").train.size == 16  # from the cache now
    assert fetch("tiny") == places / "cache" / "tiny"
    assert ("tiny", "a tiny set", True, str(places / "cache" / "tiny")) in describe_data()
    assert capfd.readouterr() == ("", "")


# named, since gzip writes the time into its bytes and parallel workers must collect the same names
@pytest.mark.parametrize(
    "content", [gzip.compress(b"wrong"), gzip.compress(CONTENT)[:-12], b""], ids=["wrong", "truncated", "empty"]
)
def test_a_wrong_download_leaves_nothing_behind(places, mirror, content):
    (mirror / "tiny-ubyte.gz").write_bytes(content)
    text = _refused(lambda: load_data("tiny"))
    assert "/tiny/tiny-ubyte.gz: the content is damaged or has another SHA-256" in text
    assert list((places / "cache" / "tiny").iterdir()) == []


def test_a_mirror_without_the_file_says_so_and_public_addresses_follow(places, mirror, monkeypatch):
    assert "404" in _refused(lambda: load_data("tiny"))
    (mirror / "elsewhere.gz").write_bytes(gzip.compress(CONTENT))
    import os

    address = f"{os.environ['PVAE_MIRROR']}tiny/elsewhere.gz"
    tiny = CATALOGUE["tiny"]
    file = DataFile("tiny-ubyte.gz", SHA256, 1000, (address,))
    monkeypatch.setitem(CATALOGUE, "tiny", DataSet(tiny.line, (file,), tiny.read))
    assert load_data("tiny").train.size == 16
    monkeypatch.setenv("PVAE_MIRROR", "nonsense://nowhere")
    assert load_data("tiny").train.size == 16


def test_fetch_replaces_a_damaged_file_of_the_cache_only(places, mirror):
    cached, given = places / "cache" / "tiny" / "tiny-ubyte.gz", places / "data" / "tiny" / "tiny-ubyte.gz"
    (mirror / "tiny-ubyte.gz").write_bytes(gzip.compress(CONTENT))
    cached.write_bytes(b"damaged")
    assert fetch("tiny") == cached.parent and gzip.decompress(cached.read_bytes()) == CONTENT
    given.write_bytes(b"damaged")
    assert "wrong content" in _refused(lambda: fetch("tiny")) and given.read_bytes() == b"damaged"


@pytest.mark.parametrize(
    "content", [bytes(2000), gzip.compress(bytes(100_000))], ids=["too large", "too large when decompressed"]
)
def test_a_download_ends_at_the_size_of_the_catalogue_and_leaves_nothing(places, mirror, content):
    (mirror / "tiny-ubyte.gz").write_bytes(content)
    assert "more than" in _refused(lambda: fetch("tiny"))
    assert list((places / "cache" / "tiny").iterdir()) == []


def test_public_addresses_are_https_and_do_not_lead_elsewhere(places, monkeypatch):
    for data_set in CATALOGUE.values():
        assert all(url.startswith("https://") for file in data_set.files for url in file.urls)
    asked = []

    def get(url, **options):
        asked.append(options["allow_redirects"])
        raise OSError("no network here")

    monkeypatch.setattr("requests.get", get)
    monkeypatch.setenv("PVAE_MIRROR", "http://mirror")
    for name in ("mnist", "tiny"):
        _refused(lambda name=name: fetch(name))
    assert asked == [True, False, True]
