"""SplitMix64, of which the host makes its seeds, and plugins their numbers."""

GOLDEN_GAMMA = 0x9E37_79B9_7F4A_7C15
_64_BITS = 0xFFFF_FFFF_FFFF_FFFF


class Generator:
    """SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): the numbers of the
    Rust SDK."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _64_BITS

    def next_u64(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + GOLDEN_GAMMA) & _64_BITS
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58_476D_1CE4_E5B9) & _64_BITS
        z = ((z ^ (z >> 27)) * 0x94D0_49BB_1331_11EB) & _64_BITS
        return z ^ (z >> 31)

    def fraction(self) -> float:
        """A number from 0 up to, but not including, 1."""
        return (self.next_u64() >> 11) / (1 << 53)

    def below(self, end: int) -> int:
        """A whole number below `end`; 0 where `end` is 0."""
        return (self.next_u64() * end) >> 64
