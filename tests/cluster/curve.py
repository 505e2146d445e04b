"""A pool's way from none to many and back, sampled while it happens and drawn as a picture for the guide.

    curve = Curve(); curve.sample(in_flight=12, replicas=3, done=0); curve.draw(path)

The picture is SVG without colours that mean anything by themselves: each line has its name beside it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

#: Of the drawing, in its own units; the right margin holds the lines' names.
WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 110, 20, 40
#: Longest that anything is waited for, on a busy machine.
OVER_S = 300.0
COLOURS = ("#0969da", "#bc4c00", "#8250df", "#1a7f37")


@dataclass
class Curve:
    """Numbers by the second, from the first sample on."""

    points: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    _begin_s: float | None = None

    def sample(self, **numbers: int) -> None:
        """Note what is so now."""
        now_s = time.monotonic()
        self._begin_s = now_s if self._begin_s is None else self._begin_s
        self.points.append((now_s - self._begin_s, numbers))

    def until(self, met: Callable[[dict[str, int]], bool], look: Callable[[], dict[str, int]]) -> None:
        """Sample twice a second what ``look`` says, until it is as wanted."""
        begin_s = time.monotonic()
        while True:
            now = look()
            self.sample(**now)
            if met(now):
                return
            assert time.monotonic() - begin_s < OVER_S, f"after {OVER_S:g} s: {now}"
            time.sleep(0.5)

    def most(self, name: str) -> int:
        return max(numbers[name] for _, numbers in self.points)

    def draw(self, path: Path, title: str) -> None:
        """Write the picture, and the numbers beside it."""
        names = list(self.points[0][1])
        table = [",".join(["seconds", *names])]
        table += [",".join([f"{at:.1f}", *(str(n[name]) for name in names)]) for at, n in self.points]
        path.with_suffix(".csv").write_text("\n".join(table) + "\n")
        path.write_text("\n".join([*self._frame(title), *self._lines(names), "</svg>", ""]))

    def _frame(self, title: str) -> list[str]:
        font = "font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\""
        seconds, most = self.points[-1][0], self._top()
        marks = [round(seconds * part / 6) for part in range(7)]
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
            f' aria-label="{title}" {font} font-size="12">'
        )
        return [
            svg,
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
            *(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{self._y(n):.1f}" y2="{self._y(n):.1f}"'
                f' stroke="#d1d9e0"/><text x="{LEFT - 8}" y="{self._y(n) + 4:.1f}" text-anchor="end"'
                f' fill="#59636e">{n}</text>'
                for n in range(0, most + 1, max(1, most // 6))
            ),
            *(
                f'<text x="{self._x(at):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle"'
                f' fill="#59636e">{at} s</text>'
                for at in marks
            ),
        ]

    def _lines(self, names: list[str]) -> list[str]:
        drawn, ends = [], [HEIGHT - BOTTOM - 16 * place for place in range(len(names))]
        for place, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
            steps: list[str] = []
            before: float | None = None
            for at, numbers in self.points:
                y = self._y(numbers[name])
                if before is not None and before != y:
                    steps.append(f"{self._x(at):.1f},{before:.1f}")
                steps.append(f"{self._x(at):.1f},{y:.1f}")
                before = y
            label = f'x="{WIDTH - RIGHT + 10}" y="{ends[place]}" fill="{colour}"'
            drawn.append(
                f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(steps)}"/>'
                f"<text {label}>{name.replace('_', ' ')}</text>"
            )
        return drawn

    def _top(self) -> int:
        return max(max(numbers.values()) for _, numbers in self.points) or 1

    def _x(self, at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * at / (self.points[-1][0] or 1)

    def _y(self, number: int) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * number / self._top()
