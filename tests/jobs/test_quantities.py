"""Numbers for people."""

import pytest

from jobs.quantities import size


@pytest.mark.parametrize("number, words", [(12, "12 B"), (1500, "1.46 KiB"), (1 << 20, "1 MiB"), (1000 << 20, "1,000 MiB"),
                                           (1023 << 30, "1,023 GiB"), (40 << 30, "40 GiB"), (5 << 50, "5,120 TiB")])
def test_sizes_have_no_exponent(number, words):
    assert size(number) == words
