from __future__ import annotations

import math
from enum import Enum
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model
from typing_extensions import TypedDict

from agentsys.capacity import BITS_PER_CHARACTER, BITS_PER_NUMBER, capacity_of


class Colour(Enum):
    RED = "red"
    GREEN = "green"
    BLUE = "blue"


class Inner(BaseModel):
    flag: bool
    colour: Colour


class Open(BaseModel, extra="allow"):
    flag: bool


class Partial(TypedDict, total=False):
    flag: bool


class Tree(BaseModel):
    children: Annotated[list[Tree], Field(max_length=2)]


@pytest.mark.parametrize(
    ("annotation", "bits"),
    [
        (bool, 1.0),
        (None, 0.0),
        (Literal["only"], 0.0),
        (Literal["a", "b", "c", "d"], 2.0),
        (Colour, math.log2(3)),
        (Annotated[int, Field(ge=0, le=255)], 8.0),
        (Annotated[int, Field(gt=0, lt=9)], 3.0),
        (int, math.inf),
        (Annotated[int, Field(ge=0)], math.inf),
        (float, BITS_PER_NUMBER),
        (str, math.inf),
        (Annotated[str, Field(max_length=2)], 2 * BITS_PER_CHARACTER),
        (bool | None, math.log2(3)),
        (Inner, 1 + math.log2(3)),
        (list[bool], math.inf),
        (Annotated[list[bool], Field(max_length=2)], math.log2(7)),
        (tuple[bool, Colour], 1 + math.log2(3)),
        (dict[str, bool], math.inf),
        (Tree, math.inf),
        (Open, math.inf),
        (Partial, math.log2(3)),
    ],
)
def test_capacity_is_the_logarithm_of_the_number_of_values(annotation, bits):
    assert capacity_of(create_model("Schema", value=(annotation, ...))) == pytest.approx(bits)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_the_capacity_of_a_record_is_the_sum_over_its_fields(sizes):
    fields = {f"f{n}": (Annotated[int, Field(ge=1, le=size)], ...) for n, size in enumerate(sizes)}
    assert capacity_of(create_model("Record", **fields)) == pytest.approx(math.log2(math.prod(sizes)))
