from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from onebit.errors import FormatError, NotBinaryError
from onebit.packed.bits import bytes_to_words, check_tail, pack_signs, sign, unpack_signs, words_to_bytes, xnor_dot


def random_signs(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), shape)


@given(st.lists(st.integers(0, 140), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_packing_and_unpacking_are_inverse(shape: list[int]) -> None:
    signs = random_signs(*shape)
    words = pack_signs(signs)
    assert words.dtype == np.uint64
    assert words.shape == (*shape[:-1], -(-shape[-1] // 64))
    np.testing.assert_array_equal(unpack_signs(words, shape[-1]), signs)


@pytest.mark.parametrize("count", [1, 8, 9, 63, 64, 65, 130])
def test_bit_k_of_a_row_is_sign_k_and_the_tail_is_zero(count: int) -> None:
    signs = random_signs(count, seed=count)
    expected = sum(1 << k for k in range(count) if signs[k] == 1)  # the whole row as one little-endian number
    words = pack_signs(signs)
    assert sum(int(word) << (64 * index) for index, word in enumerate(words)) == expected
    assert words_to_bytes(words, count).tobytes() == expected.to_bytes(-(-count // 8), "little")


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float16, np.float32, np.float64, ">f4", ">i2"])
def test_all_real_dtypes_pack_to_the_same_words(dtype: Any) -> None:
    signs = random_signs(70, 3)
    np.testing.assert_array_equal(pack_signs(signs.astype(dtype).T), pack_signs(signs.T.copy()))
    assert unpack_signs(pack_signs(signs.T), 70, dtype=dtype).dtype == np.dtype(dtype)


@pytest.mark.parametrize("value", [0.0, np.nan, 0.5, np.inf, np.uint8(255)])
def test_values_other_than_plus_and_minus_one_are_refused(value: Any) -> None:
    with pytest.raises(NotBinaryError):
        pack_signs(np.array([value, 1, 1], np.asarray(value).dtype))


@given(st.integers(1, 300), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_rows_of_bytes_and_words_are_inverse(count: int, rows: int) -> None:
    words = pack_signs(random_signs(rows, count, seed=count))
    file_rows = words_to_bytes(words, count)
    assert file_rows.dtype == np.uint8
    assert file_rows.shape == (rows, -(-count // 8))
    assert file_rows.flags.c_contiguous
    np.testing.assert_array_equal(bytes_to_words(file_rows, count), words)
    assert bytes_to_words(file_rows, count).dtype == np.uint64


def test_words_of_the_other_byte_order_have_the_same_signs() -> None:
    signs = random_signs(2, 100)
    words = pack_signs(signs)
    foreign = words.astype(">u8")  # as on a big-endian machine
    assert foreign.tobytes() != words.astype("<u8").tobytes()
    np.testing.assert_array_equal(words_to_bytes(foreign, 100), words_to_bytes(words, 100))
    np.testing.assert_array_equal(unpack_signs(foreign, 100), signs)


@pytest.mark.parametrize("bit", [70, 71, 127])
def test_bits_after_the_last_sign_are_refused(bit: int) -> None:
    words = pack_signs(random_signs(3, 70))
    words[1, bit // 64] |= np.uint64(1 << (bit % 64))
    with pytest.raises(FormatError, match="1 rows"):
        check_tail(words, 70)
    if bit < 72:  # within the bytes of a file row
        with pytest.raises(FormatError, match="signs"):
            bytes_to_words(words_to_bytes(words, 70), 70)


@given(st.integers(1, 200), st.integers(0, 5), st.integers(0, 5), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_xnor_product_is_the_product_of_signs(count: int, n: int, o: int, seed: int) -> None:
    a, b = random_signs(n, count, seed=seed), random_signs(o, count, seed=seed + 1000)
    product = xnor_dot(pack_signs(a), pack_signs(b), count)
    assert product.dtype == np.int32
    expected = [[sum(int(p) * int(q) for p, q in zip(x, y, strict=True)) for y in b] for x in a]
    assert product.tolist() == expected


@pytest.mark.parametrize(("n", "o", "count"), [(5, 70_000, 65), (300, 300, 256), (2, 3, 70_000)])
def test_xnor_product_over_several_blocks_and_wide_counts(n: int, o: int, count: int) -> None:
    a, b = random_signs(n, count), random_signs(o, count, seed=1)
    a[0], b[0] = 1, -1  # rows that differ in every sign
    product = xnor_dot(pack_signs(a), pack_signs(b), count)
    np.testing.assert_array_equal(product, (a.astype(np.float64) @ b.T.astype(np.float64)).astype(np.int32))
    assert product[0, 0] == -count


def test_xnor_product_keeps_its_temporaries_small() -> None:
    import tracemalloc

    a, b = pack_signs(random_signs(1024, 64)), pack_signs(random_signs(2048, 64))
    tracemalloc.start()
    product = xnor_dot(a, b, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < product.nbytes + 3_000_000  # all words at once would be 16 MB more


def test_sign_of_zero_is_plus_one_and_nan_has_none() -> None:
    x = np.array([0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf], np.float32)
    assert sign(x).tolist() == [1, 1, 1, -1, 1, -1]
    assert sign(x).dtype == np.int8
    assert sign(np.array([-3, 0, 3])).tolist() == [-1, 1, 1]
    with pytest.raises(NotBinaryError, match="1 of 2"):
        sign(np.array([np.nan, 1.0]))
