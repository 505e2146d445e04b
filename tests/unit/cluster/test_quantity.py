"""Quantities are read exactly as Kubernetes' own client reads them."""

import contextlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity as clients_parse_quantity

from hybrid_executor.cluster.quantity import in_binary_units, parse_quantity

units = st.sampled_from(["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])
numbers = st.decimals(min_value=-(10**6), max_value=10**6, places=3, allow_nan=False)


@given(numbers, units)
def test_a_quantity_equals_the_clients_reading(number: object, unit: str) -> None:
    text = f"{number}{unit}"
    assert parse_quantity(text) == Fraction(clients_parse_quantity(text))


@given(st.integers(-999, 999), st.integers(-18, 18), st.sampled_from("eE"))
def test_an_exponent_equals_the_clients_reading(number: int, exponent: int, letter: str) -> None:
    text = f"{number}{letter}{exponent}"
    assert parse_quantity(text) == Fraction(clients_parse_quantity(text))


@pytest.mark.parametrize(
    "text", ["", "Gi", "1.2.3", "1 Gi", "1ki", "1Kib", "1e", "0x10", "NaN", "1mm", "\u0661"]
)
def test_what_the_api_server_refuses_raises(text: str) -> None:
    with pytest.raises(ValueError, match="no Kubernetes quantity"):
        parse_quantity(text)


@given(st.text(max_size=12))
def test_any_text_is_a_number_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("512Mi", "512Mi"), ("536870912", "512Mi"), ("1.5Gi", "1536Mi"), ("1G", "1e+09 bytes")],
)
def test_a_size_is_shown_in_the_largest_unit_that_divides_it(text: str, shown: str) -> None:
    assert in_binary_units(parse_quantity(text)) == shown
