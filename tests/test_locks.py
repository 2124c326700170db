"""One writer of a folder at a time, and one thread that trains or evaluates."""

import json
import multiprocessing
import os
import socket
import threading

import hostile_files as hostile
import pytest
import torch

import pvae
from pvae.locks import LOCK_FILE, is_written_now, sole_writer
from pvae.randomness import preserved_randomness


def _data():
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(120, 5, generator=generator) < 0.3).float()
    return pvae.load_data(x, binarise="none", validation=0, test=0)


def _hold_until_killed(folder, ready):
    with sole_writer(folder):
        ready.set()
        threading.Event().wait(60)


def test_a_second_writer_is_refused_and_the_folder_is_removed_if_it_stays_empty(tmp_path):
    folder = tmp_path / "new" / "run"
    with sole_writer(folder):
        with (
            pytest.raises(pvae.InputError, match=rf"process {os.getpid()} on .* Wait until it ends"),
            sole_writer(folder),
        ):
            pass
        assert json.loads((folder / LOCK_FILE).read_text())["process"] == os.getpid()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("make", [hostile.fifo, hostile.device, hostile.folder])
def test_a_lock_that_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / LOCK_FILE)

    def write():
        with sole_writer(tmp_path):
            pass

    reaction = hostile.reaction_to(write)
    assert reaction.error == "InputError" and "needs to be a regular file" in reaction.text


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "[" * 1000, "{}", '{"host": null}', "\0" * 900, '{"process": 1e400}']
)
def test_a_lock_without_a_writer_is_taken_over(tmp_path, content):
    (tmp_path / LOCK_FILE).write_text(content)
    with sole_writer(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()


@pytest.mark.parametrize("process", [-1, 0, 1 << 40, 10**30])
def test_a_number_that_is_no_process_does_not_write(tmp_path, process):
    (tmp_path / LOCK_FILE).write_text(json.dumps({"process": process, "host": socket.gethostname()}))
    assert not is_written_now(tmp_path)


def test_a_folder_with_content_stays_without_the_lock_file(tmp_path):
    with sole_writer(tmp_path / "run"):
        (tmp_path / "run" / "content").write_text("text")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["content"]


def test_a_writer_in_another_process_is_named_and_the_lock_of_a_killed_one_is_taken_over(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold_until_killed, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    with pytest.raises(pvae.InputError, match=f"process {process.pid} on"), sole_writer(tmp_path):
        pass
    process.kill()
    process.join()
    assert (tmp_path / LOCK_FILE).exists(), "a killed process leaves its lock file"
    with sole_writer(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()


def test_the_lock_of_another_computer_is_refused_with_the_file_to_remove(tmp_path):
    (tmp_path / LOCK_FILE).write_text(json.dumps({"host": "elsewhere", "process": 7}))
    with pytest.raises(pvae.InputError, match=r"process 7 on elsewhere .*remove .*\.lock"), sole_writer(tmp_path):
        pass
    assert (tmp_path / LOCK_FILE).exists()


def test_fit_refuses_a_folder_that_another_writer_has_and_leaves_it(tmp_path):
    folder = tmp_path / "run"
    with sole_writer(folder), pytest.raises(pvae.InputError, match="one writer at a time"):
        pvae.fit(pvae.VAE((5,), latent=2, hidden=4), _data(), epochs=1, out=folder, step="eager", progress=False)
    assert not folder.exists()


def test_compare_refuses_a_folder_that_another_writer_has(tmp_path):
    data = pvae.load_data(_data().train.x, binarise="none")
    with sole_writer(tmp_path / "study"), pytest.raises(pvae.InputError, match="one writer at a time"):
        pvae.compare(
            {"vae": pvae.ModelSpec("vae")}, data, ["elbo"], seeds=1, epochs=1, out=tmp_path / "study", workers=0
        )


def test_a_fit_in_a_second_thread_is_refused_and_generators_are_put_back():
    model, data, errors = pvae.VAE((5,), latent=2, hidden=4), _data(), []
    before = torch.get_rng_state()

    def fit():
        try:
            pvae.fit(model, data, epochs=1, step="eager", progress=False)
        except pvae.InputError as error:
            errors.append(str(error))

    with preserved_randomness():
        thread = threading.Thread(target=fit)
        thread.start()
        thread.join()
    assert len(errors) == 1
    assert "one thread at a time" in errors[0]
    assert torch.equal(torch.get_rng_state(), before)
    fit()
    assert len(errors) == 1, "the lock is free again"
    assert torch.equal(torch.get_rng_state(), before)
