"""What steps of a base model cost, learned from the steps that were measured.

A step has a fixed part and a part for each padded token: `seconds = fixed + per_token * tokens`. The fixed part is
found from steps of all lengths together, because many sizes show it best; the other is kept for each length class,
because long rows cost more a token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# A measured step counts half of the next one after this many others, so that what is learned follows a network that
# was compiled meanwhile or a processor that others took away, and is not thrown by a single slow step.
_HALF_LIFE = 32
_FADE = 0.5 ** (1 / _HALF_LIFE)


@dataclass(slots=True)
class _Sums:
    """Sums over steps, the newest weighing most."""

    weight: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0
    squares: float = 0.0
    products: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self.weight = self.weight * _FADE + 1
        self.tokens = self.tokens * _FADE + tokens
        self.seconds = self.seconds * _FADE + seconds
        self.squares = self.squares * _FADE + tokens * tokens
        self.products = self.products * _FADE + tokens * seconds

    @property
    def per_token(self) -> float:
        """The slope of the line through all steps; neither part of it is below zero, whatever noise says."""
        spread = self.weight * self.squares - self.tokens**2
        slope = (self.weight * self.products - self.tokens * self.seconds) / spread if spread > 0 else 0.0
        return min(max(slope, 0.0), self.seconds / self.tokens)


@dataclass(slots=True)
class StepTimes:
    """The costs of one base model's steps.

    One made-up step of no tokens and no seconds keeps the line steady while all steps are of one size: their cost is
    then taken to be in proportion to the tokens. It fades like any other.

    Example:
        >>> times = StepTimes()
        >>> for tokens in (100, 1000) * 200:
        ...     times.learn(2, tokens, 0.004 + 0.0001 * tokens)
        >>> round(times.fixed, 3), round(times.seconds(2, 500), 3), times.tokens_within(2, 0.054)
        (0.004, 0.054, 500)
    """

    _all: _Sums = field(default_factory=lambda: _Sums(weight=1.0))
    _classes: dict[int, _Sums] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether any step was measured."""
        return bool(self._classes)

    @property
    def fixed(self) -> float:
        """Seconds for a step, whatever it holds."""
        if not self.known:
            return 0.0
        return max(0.0, (self._all.seconds - self._all.per_token * self._all.tokens) / self._all.weight)

    def learn(self, length_class: int, tokens: int, seconds: float) -> None:
        """Take a measured step into account: the class of its longest row, and its padded tokens."""
        self._all.add(tokens, seconds)
        self._classes.setdefault(length_class, _Sums()).add(tokens, seconds)

    def per_token(self, length_class: int) -> float:
        """Seconds for each padded token, by the nearest length class that was measured; 0 when none was."""
        if not self.known:
            return 0.0
        sums = self._classes[min(self._classes, key=lambda known: abs(known - length_class))]
        return max(0.0, (sums.seconds - self.fixed * sums.weight) / sums.tokens)

    def seconds(self, length_class: int, tokens: int) -> float:
        """The seconds a step is expected to take."""
        return self.fixed + self.per_token(length_class) * tokens

    def tokens_within(self, length_class: int, seconds: float) -> int | None:
        """The padded tokens that a step is expected to compute in this time; None when nothing limits them."""
        per_token = self.per_token(length_class)
        if not per_token:
            return None
        # Rounded, because what fits exactly must not fall out by the last digit of a division.
        return max(0, int(round((seconds - self.fixed) / per_token, 6)))
