"""What steps cost, learned from the steps that were measured: a fixed part and a part for each padded token."""

from __future__ import annotations

from dataclasses import dataclass

# A measured step counts half of the next one after this many others, so that what is learned follows a network that
# was compiled meanwhile or a processor that others took away, and is not thrown by a single slow step.
_HALF_LIFE = 32
_FADE = 0.5 ** (1 / _HALF_LIFE)


@dataclass(slots=True)
class StepTimes:
    """A line through measured steps, `seconds = fixed + per_token * tokens`; the newest count most.

    One made-up step of no tokens and no seconds keeps the line steady while all steps are of one size: the cost is then
    taken to be in proportion to the tokens. It fades like any other.

    Example:
        >>> times = StepTimes()
        >>> for tokens in (100, 1000) * 200:
        ...     times.learn(tokens, 0.004 + 0.0001 * tokens)
        >>> round(times.fixed, 3), round(times.seconds(500), 3), times.tokens_within(0.054)
        (0.004, 0.054, 500)
    """

    weight: float = 1.0
    tokens: float = 0.0
    spent: float = 0.0
    squares: float = 0.0
    products: float = 0.0

    @property
    def known(self) -> bool:
        """Whether any step was measured."""
        return self.tokens > 0

    @property
    def per_token(self) -> float:
        """Seconds for each padded token."""
        spread = self.weight * self.squares - self.tokens**2
        slope = (self.weight * self.products - self.tokens * self.spent) / spread if spread > 0 else 0.0
        # Noise may tilt the line below the origin or below zero; a step costs neither less than nothing.
        return min(max(slope, 0.0), self.spent / self.tokens) if self.tokens else 0.0

    @property
    def fixed(self) -> float:
        """Seconds for a step, whatever it holds."""
        return (self.spent - self.per_token * self.tokens) / self.weight

    def learn(self, tokens: int, seconds: float) -> None:
        """Take a measured step into account."""
        self.weight = self.weight * _FADE + 1
        self.tokens = self.tokens * _FADE + tokens
        self.spent = self.spent * _FADE + seconds
        self.squares = self.squares * _FADE + tokens * tokens
        self.products = self.products * _FADE + tokens * seconds

    def seconds(self, tokens: int) -> float:
        """The seconds a step of so many padded tokens is expected to take."""
        return self.fixed + self.per_token * tokens

    def tokens_within(self, seconds: float) -> int | None:
        """The padded tokens that a step is expected to compute in this time; None when nothing limits them."""
        if not self.per_token:
            return None
        # Rounded, because what fits exactly must not fall out by the last digit of a division.
        return max(0, int(round((seconds - self.fixed) / self.per_token, 6)))
