"""Files that are meant to stop a program or to fill its memory, and the measurement of what a block does with them."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import resource
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SPARSE = 20 * 2**30


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(SPARSE)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def dotted_keys(path: Path) -> None:
    path.write_text("a." * 400_000 + "b = 1\n")


def quoted_dotted_keys(path: Path) -> None:
    path.write_text("'a b'. " * 100_000 + "b = 1\n")


def many_tables(path: Path) -> None:
    path.write_text("".join(f"[t{number}.a.b.c.d.e.f.g]\n" for number in range(200_000)))


def deep_lists(path: Path, depth: int = 200_000) -> None:
    path.write_text("x = " * (path.suffix == ".toml") + "[" * depth + "]" * depth)


def deep_tables(path: Path) -> None:
    path.write_text("x = " * (path.suffix == ".toml") + '{"a":' * 200_000)


def long_integer(path: Path) -> None:
    path.write_text("x = " * (path.suffix == ".toml") + "9" * 900_000)


def many_values(path: Path) -> None:
    path.write_text("x = " * (path.suffix == ".toml") + "[" + "[]," * 5_000_000 + "1]")


def not_utf8(path: Path) -> None:
    path.write_bytes(b'x = "\xff\xfe"')


def npy_claim(path: Path) -> None:
    path.write_bytes(_npy_header((10**12, 100)) + bytes(800))


def npy_negative(path: Path) -> None:
    path.write_bytes(_npy_header((-(10**12), -100)) + bytes(800))


def npz_claim(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", _npy_header((10**12, 100)) + bytes(800))


def npz_bomb(path: Path) -> None:
    rows, block = 300_000, bytes(8 << 20)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as file,
    ):
        file.write(_npy_header((rows, 100)))
        for _ in range(rows * 800 // len(block) + 1):
            file.write(block)


def npz_overlap(path: Path) -> None:
    """Name one part of an archive 20,000 times."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _npy_header((1_000_000,)) + bytes(8_000_000))
        first = archive.infolist()[0]
        for number in range(20_000):
            entry = zipfile.ZipInfo(f"x{number}.npy")
            for name in ("header_offset", "CRC", "compress_size", "file_size", "compress_type"):
                setattr(entry, name, getattr(first, name))
            archive.filelist.append(entry)


def gzip_bomb(path: Path) -> None:
    """Write 10 GB of lines or zeros, in many gzip members of the same content."""
    packer = zlib.compressobj(9, wbits=31)
    block = (b"1,2,3,4\n" if ".csv" in path.name else b"\0" * 8) * (1 << 20)
    member = packer.compress(block) + packer.flush()
    path.write_bytes(member * 1250)


def parquet_claim(path: Path) -> None:
    """Claim 10^12 rows, in the footer of a file with 77,777 rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": np.arange(77_777)}), path)
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - length : -8].replace(_varint(2 * 77_777), _varint(2 * 10**12))
    path.write_bytes(content[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1")


def parquet_repeat(path: Path) -> None:
    """Store a text of 1 MB once, for 3,000 rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(3000, np.int32)), ["x" * 10**6])
    pq.write_table(pa.table({"a": texts}), path, store_schema=False)


def _varint(number: int) -> bytes:
    """Return a number as Thrift writes it, 7 bits in each byte."""
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def idx_claim(path: Path) -> None:
    path.write_bytes(struct.pack(">BBBBIII", 0, 0, 8, 3, 2**31, 2**31, 2**31) + bytes(100))


def png_bomb(path: Path) -> None:
    _write_png(path, 13_000)


def png_large(path: Path) -> None:
    _write_png(path, 60_000)


def png_claim(path: Path) -> None:
    _write_png(path, 2**31 - 1)


def eps(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(/etc/passwd) (r) file\n")


def safetensors_claim(path: Path) -> None:
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")


def safetensors_large_tensor(path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F64", "shape": [10**12], "data_offsets": [0, 8 * 10**12]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(800))


def mat_bomb(path: Path) -> None:
    """Write a compressed matrix of 256 MB of zeros."""
    rows = 2**28 // 8
    flags = struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<IIii", 5, 8, rows, 1) + struct.pack("<HHcxxx", 1, 1, b"x")
    packer = zlib.compressobj(1)
    parts = [
        packer.compress(struct.pack("<II", 14, len(flags) + 8 + 8 * rows) + flags + struct.pack("<II", 9, 8 * rows))
    ]
    parts += [packer.compress(bytes(1 << 24)) for _ in range(8 * rows >> 24)]
    content = b"".join([*parts, packer.flush()])
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<HH", 0x0100, 0x4D49)
    path.write_bytes(head + struct.pack("<II", 15, len(content)) + content)


def hdf5_claim(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape=(10**9, 100), chunks=(1000, 100), dtype="f8")


def hdf5_elsewhere(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["x"] = h5py.ExternalLink("/etc/passwd", "x")


def wide_table(path: Path) -> None:
    path.write_text(",".join(["1"] * 400_000) + "\n" + ",".join(["2"] * 400_000) + "\n")


def open_quote(path: Path) -> None:
    path.write_text('a,b\n1,"' + "2\n" * 300_000)


def _npy_header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _write_png(path: Path, size: int) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    pixels = b"" if size > 20_000 else zlib.compress(bytes((size + 1) * size), 1)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


class Reaction(NamedTuple):
    """What a block did: the class and the text of its error, its seconds and the MB that it took above its start."""

    error: str
    text: str
    seconds: float
    megabytes: float


def reaction_to(block: Callable[[], Any], limit: float = 20.0) -> Reaction:
    """Run a block in a forked process, and return what it did; one that does not end is killed.

    Args:
        block: the block.
        limit: seconds of wall-clock time after which the process is killed.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_react, args=(block, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            return Reaction("Hang", f"not done after {limit} s", limit, 0.0)
        return Reaction(*receiver.recv())
    except EOFError:
        process.join()
        return Reaction("Death", f"exit code {process.exitcode}", 0.0, 0.0)
    finally:
        process.kill()
        process.join()


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def _react(block: Callable[[], Any], sender: Any) -> None:
    before, begin = _memory(), time.process_time()
    error, text = "", ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            block()
        except BaseException as raised:
            error, text = type(raised).__name__, str(raised)
    sender.send((error, text, time.process_time() - begin, _memory() - before))
