"""Compartments of a linear model, how they are joined, and NONMEM's numbers of them."""

from __future__ import annotations

from dataclasses import dataclass

PERIPHERALS = ("peripheral1", "peripheral2")


@dataclass(frozen=True)
class Structure:
    """Compartments in the order of their numbers: the chain of absorption, the central one, the peripheral ones.

    **Fields:** `disposition`: 1, 2 or 3, the central and the peripheral compartments; `depot`: whether a depot precedes
    the central compartment; `transits`: number of transit compartments before the depot.
    """

    disposition: int
    depot: bool = False
    transits: int = 0

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the compartments: transit0, transit1, ..., depot, central, peripheral1, peripheral2."""
        chain = tuple(f"transit{k}" for k in range(self.transits)) + (("depot",) if self.depot else ())
        return (*chain, "central", *PERIPHERALS[: self.disposition - 1])

    @property
    def central(self) -> int:
        """Position of the central compartment."""
        return self.transits + self.depot

    @property
    def links(self) -> tuple[tuple[int, int, str], ...]:
        """Flows (to, from, name of the rate constant) between compartments."""
        c = self.central
        chain = [(k + 1, k, "ktr") for k in range(self.transits)] + ([(c, c - 1, "ka")] if self.depot else [])
        around = []
        for k in range(1, self.disposition):
            around += [(c + k, c, f"k1{k + 1}"), (c, c + k, f"k{k + 1}1")]
        return (*chain, *around)

    def reachable(self, dosed: tuple[int, ...]) -> tuple[int, ...]:
        """Positions of the compartments that receive something when the compartments `dosed` (positions) do."""
        found = set(dosed)
        for _ in self.states:
            found |= {to for to, origin, _ in self.links if origin in found}
        return tuple(sorted(found))
