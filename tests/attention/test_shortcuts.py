"""Calls are known again by the metadata of their tensors, by nothing less."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from settx_fast.attention.shortcuts import MAX_OF_SHAPE, Calls, Seen, likeness, slow_likeness

Likeness = Callable[[Sequence[Tensor]], Callable[..., bool]]
LIKE = torch.zeros(2, 3)
OTHERS = {
    "dtype": LIKE.half(),
    "device": LIKE.to("meta"),
    "shape": torch.zeros(3, 3),
    "dimensions": torch.zeros(6),
    "strides": torch.zeros(3, 2).mT,
    "gradient": torch.zeros(2, 3, requires_grad=True),
    "subclass": Parameter(LIKE, requires_grad=False),
    "conjugate": torch.zeros(2, 3, dtype=torch.complex64).conj(),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("way", [likeness, slow_likeness])
def test_a_tensor_that_differs_in_anything_is_not_alike(way: Likeness, what: str) -> None:
    is_like = way([torch.zeros(4), LIKE])
    assert is_like(torch.ones(4), torch.ones(2, 3))
    assert not is_like(torch.zeros(4), OTHERS[what])


@pytest.mark.parametrize("way", [likeness, slow_likeness])
def test_conjugates_are_told_from_what_they_are_made_of(way: Likeness) -> None:
    plain = torch.zeros(3, dtype=torch.complex64)
    assert not way([plain])(plain.conj())
    assert way([plain.conj()])(torch.ones_like(plain).conj())


@pytest.mark.parametrize("way", [likeness, slow_likeness])
def test_what_a_transform_left_behind_is_not_alike(way: Likeness) -> None:
    kept: list[Tensor] = []
    torch.func.grad(lambda t: (kept.append(t), t.sum())[1])(LIKE)
    assert type(kept[0]) is Tensor
    for flag in (False, True):
        like = LIKE.clone().requires_grad_(flag)
        assert not way([like])(kept[0])


def seen(*tensors: Tensor, said: object = None) -> Seen:
    return Seen(list(tensors), (said,))


def test_a_call_is_found_by_its_tensors_and_by_what_it_says() -> None:
    calls = Calls(2)
    calls.keep(seen(LIKE, said="a"), 1)
    calls.keep(seen(LIKE, said="b"), 2)
    calls.keep(seen(LIKE, torch.zeros(4), said="b"), 3)
    assert [calls.find(seen(torch.ones(2, 3), said=said)) for said in "abc"] == [1, 2, None]
    assert calls.find(seen(LIKE.half(), said="a")) is None
    assert calls.find(seen(LIKE, LIKE + 1, said="b")) is None
    assert calls.find(seen(torch.zeros(4), said="a")) is None


def test_calls_of_one_shape_are_bounded_and_the_newest_stay() -> None:
    calls = Calls(2)
    for said in range(MAX_OF_SHAPE + 3):
        calls.keep(seen(LIKE, said=said), said)
    found = [calls.find(seen(LIKE, said=said)) for said in range(MAX_OF_SHAPE + 3)]
    assert found == [None] * 3 + list(range(3, MAX_OF_SHAPE + 3))


def test_a_call_that_says_a_tensor_twice_is_kept_only_if_it_can_be_found() -> None:
    calls = Calls(2)
    twice = seen(LIKE, LIKE)
    calls.keep(twice, 1)
    assert (calls.find(twice) == 1) is (len(calls) == 1)
