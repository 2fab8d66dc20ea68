"""`stream`: the datasets of `sample`, dealt to ranks and workers, resumed, and drawn ahead."""

import gc
import itertools
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from priors import EVERYTHING, LINEAR
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from settx_fast import scm
from settx_fast.scm.streaming import rows_of_batch

SIZE, ROWS, SEED = 3, (20, 40), 5


def stream(**options):
    return scm.stream(EVERYTHING, SIZE, SEED, **{"num_rows": ROWS, "num_threads": 1} | options)


def take(batches, number):
    return list(itertools.islice(batches, number))


def same(left, right):
    return len(left) == len(right) and all(
        torch.equal(a.values, b.values) and torch.equal(a.index, b.index) and torch.equal(a.weights, b.weights)
        for a, b in zip(left, right, strict=True)
    )


def dealt(per_rank):
    """Batches of all ranks in the order in which one process draws them."""
    return list(itertools.chain.from_iterable(zip(*per_rank, strict=True)))


ALONE = take(stream(rank=0, world_size=1), 12)


# ---- The datasets of `sample` ----------------------------------------------------------------------------------------


def test_a_stream_is_what_sample_draws():
    for step, batch in enumerate(ALONE):
        rows = batch.values.shape[1]
        again = scm.sample(EVERYTHING, SIZE, rows, seed=SEED, first_index=SIZE * step, num_threads=1)
        assert same([batch], [again])


def test_row_counts_vary_between_batches_within_their_range():
    counts = {batch.values.shape[1] for batch in ALONE}
    assert len(counts) > 3
    assert all(ROWS[0] <= count <= ROWS[1] for count in counts)


def test_row_counts_of_a_range_are_log_uniform():
    counts = [rows_of_batch((10, 1000), SEED, number) for number in range(2000)]
    # Of 2,000 draws a quantile of the logarithm lies within 4 · 0.5 / √2000 = 0.045 of its place in 999 of 1,000 seeds.
    logs = (np.quantile(np.log10(counts), [0.25, 0.5, 0.75]) - 1) / 2
    np.testing.assert_allclose(logs, [0.25, 0.5, 0.75], atol=0.045)
    assert 10 <= min(counts) < 11 < 900 < max(counts) <= 1000


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_drawing_ahead_changes_no_batch(prefetch):
    assert same(take(stream(prefetch=prefetch), 6), ALONE[:6])


def test_the_next_batches_are_drawn_while_one_is_in_use(monkeypatch):
    drawn = []
    batch = scm.Stream.batch
    monkeypatch.setattr(scm.Stream, "batch", lambda self, step: drawn.append(step) or batch(self, step))
    batches = iter(stream(prefetch=2))
    next(batches)
    deadline = time.monotonic() + 30
    while len(drawn) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert drawn == [0, 1, 2]


def test_an_abandoned_iteration_ends_its_thread():
    others = set(threading.enumerate())
    batches = iter(stream(prefetch=3))
    next(batches)
    (thread,) = (one for one in threading.enumerate() if one not in others)
    del batches
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


def test_an_error_while_drawing_ahead_reaches_the_consumer():
    batches = iter(stream(first_index=(1 << 48) - 2 * SIZE))
    take(batches, 2)
    with pytest.raises(ValueError, match="first_index"):
        next(batches)


def test_an_iteration_that_was_begun_before_a_fork_is_refused_in_the_child_and_goes_on_in_the_parent():
    here = stream(prefetch=2)
    batches = iter(here)
    head = take(batches, 2)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            next(batches)
        except RuntimeError as error:
            anew = same(take(here, 2), head)
            os._exit(0 if f"belongs to process {os.getppid()}" in str(error) and anew else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert same(head + take(batches, 2), ALONE[:4])


def test_an_interrupted_native_call_ends_at_once():
    def interrupt(number, frame):
        raise KeyboardInterrupt

    prior = scm.Prior(10, graph=scm.ErdosRenyi(expected_in_degree=3), mechanism=scm.Fourier(features=300))
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for threads in (1, 2):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            start = time.thread_time()
            with pytest.raises(KeyboardInterrupt):
                scm.sample(prior, 1, 4_000_000, seed=0, num_threads=threads)  # many seconds' work
            assert time.thread_time() - start < 3
    finally:
        signal.signal(signal.SIGALRM, before)
    again = scm.sample(EVERYTHING, SIZE, 30, seed=SEED, num_threads=2)
    assert torch.equal(again.values, scm.sample(EVERYTHING, SIZE, 30, seed=SEED, num_threads=1).values)


# ---- Ranks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_together_draw_what_one_process_draws(ranks):
    per_rank = [take(stream(rank=rank, world_size=ranks), 12 // ranks) for rank in range(ranks)]
    assert same(dealt(per_rank), ALONE)


def _draw_as_a_rank(rank, ranks, port, results):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    try:
        torch.save(take(stream(), 6 // ranks), f"{results}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_processes_of_a_group_draw_their_own_slices(ranks, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_draw_as_a_rank, (ranks, port, str(tmp_path)), nprocs=ranks, start_method="fork")
    per_rank = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(ranks)]
    assert same(dealt(per_rank), ALONE[:6])


def test_torchrun_is_asked_where_no_group_was_made(monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("RANK", "1"), ("WORLD_SIZE", "3")):
        monkeypatch.setenv(name, value)
    assert (stream().rank, stream().world_size) == (1, 3)


# ---- Loader workers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_workers_share_the_batches_of_a_rank_in_order(workers):
    loader = DataLoader(stream(rank=1, world_size=2), batch_size=None, num_workers=workers)
    assert same(take(loader, 5), ALONE[1:11:2])


def test_a_stream_can_be_sent_to_a_process_that_was_not_forked():
    assert same(take(pickle.loads(pickle.dumps(stream())), 2), ALONE[:2])


# ---- Resuming --------------------------------------------------------------------------------------------------------


def test_a_resumed_stream_goes_on_where_it_was_asked():
    first = stream()
    batches = iter(first)
    head = take(batches, 5)
    second = stream()
    second.load_state_dict(first.state_dict())
    assert same(head + take(second, 7), ALONE)
    assert same(take(batches, 7), ALONE[5:])  # asking disturbs nothing
    again = stream()
    again.load_state_dict(second.state_dict())
    assert again.first_index == 12 * SIZE


def test_a_stream_resumes_on_another_number_of_ranks():
    two = [stream(rank=rank, world_size=2) for rank in range(2)]
    head = dealt([take(each, 3) for each in two])
    assert two[0].state_dict() == two[1].state_dict()
    three = [stream(rank=rank, world_size=3) for rank in range(3)]
    for each in three:
        each.load_state_dict(two[0].state_dict())
    assert same(head + dealt([take(each, 2) for each in three]), ALONE)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_a_stateful_loader_resumes_a_stream(workers):
    def loader():
        return StatefulDataLoader(stream(), batch_size=None, num_workers=workers)

    first = loader()
    head = take(iter(first), 5)
    second = loader()
    second.load_state_dict(first.state_dict())
    assert same(head + take(iter(second), 4), ALONE[:9])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, r"state_dict\['seed'\]: expected 5 as in this stream, got 6"),
        ({"batch_size": 4}, r"state_dict\['batch_size'\]: expected 3"),
        ({"stream_version": 0}, r"state_dict\['stream_version'\]: expected"),
        ({"first_index": -1}, "first_index: expected an int ≥ 0, got -1"),
        ({"first_index": None}, "first_index: expected an int ≥ 0, got None"),
    ],
)
def test_a_state_of_another_stream_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        stream().load_state_dict(stream().state_dict() | change)


@pytest.mark.parametrize("state", [None, "state", 3])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ValueError, match="state_dict: expected what `state_dict` gives, got"):
        stream().load_state_dict(state)


# ---- Refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior": "chain"}, "prior: expected an scm.Prior, got 'chain'"),
        ({"batch_size": 0}, "batch_size: expected an int ≥ 1, got 0"),
        ({"seed": -1}, "seed: expected an int"),
        ({"rank": 1}, r"rank, world_size: expected both or neither, got \(1, None\)"),
        ({"rank": 2, "world_size": 2}, "rank: expected an int in 0…1, got 2"),
        ({"rank": 0, "world_size": 0}, "world_size: expected an int ≥ 1, got 0"),
        ({"num_rows": (40, 20)}, r"num_rows: expected .* got \(40, 20\)"),
        ({"num_rows": 1}, "a row for each of up to 2 environments, got 1"),
        ({"batch_size": 10**9}, "expected a batch within this machine's free memory"),
        ({"prefetch": -1}, "prefetch: expected an int in 0…64, got -1"),
        ({"device": "abacus"}, "device: expected 'cpu', 'cuda' .*, got 'abacus'"),
        ({"num_threads": 0}, "num_threads: expected None or an int"),
    ],
)
def test_bad_streams_name_field_expected_and_got(change, message):
    good = {"prior": LINEAR, "batch_size": 2, "seed": 0, "num_rows": 10}
    with pytest.raises(ValueError, match=message):
        scm.stream(**good | change)


# ---- On a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_side_stream_gives_the_batches_of_the_cpu():
    for here, there in zip(take(stream(device="cuda"), 12), ALONE, strict=True):
        assert here.values.is_cuda
        assert torch.equal(here.values.cpu(), there.values)


def test_an_interpreter_ends_while_a_daemon_thread_draws() -> None:
    source = """
import threading, time
from settx_fast import scm

prior = scm.presets.recurring(12, 6)
scm.sample(prior, 2, 100, seed=0)

def draw():
    while True:
        scm.sample(prior, 64, 1000, seed=0, num_threads=2)

threading.Thread(target=draw, daemon=True).start()
time.sleep(0.3)
"""
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
