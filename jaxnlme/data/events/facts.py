"""EventFacts: properties of the events of a data set that decide which program computes a model."""

from __future__ import annotations

from dataclasses import dataclass, field

# Columns of the table `v.events` that a structural model reads, one row for each dose or reset.
DOSE_COLUMNS = (
    "time", "amount", "rate", "compartment", "steady_state", "interval", "reset", "segment", "rows_before", "row",
)  # fmt: skip
# Those that are zero in padding: a padded row is no dose, at the time and in the segment of the last one.
ZERO_IN_PADDING = ("amount", "rate", "steady_state", "interval", "reset")


@dataclass(frozen=True)
class EventFacts:
    """Properties of all events of a data set, known before any program is compiled.

    **Fields:**

    - `time`: name of the column of x with the time of each row, on the clock of the events.
    - `compartment`: name of the column of x with the compartment of each row, None without one.
    - `infusions`: a dose has a rate or a duration; `modelled_rate`, `modelled_duration`: one is computed from
      parameters (RATE -1, RATE -2).
    - `steady_state`: kinds of steady-state records, a part of (1, 2); `constant_infusion`: one of them is an infusion
      without end (AMT 0, RATE > 0, II 0).
    - `segments`: largest number of times that a group starts anew (resets, and steady state 1); 0: none does.
    - `overlap`: largest number of infusions of one steady-state record that run at one time, for durations given in the
      data, with a bioavailability of 1.
    - `dosed`: the compartments that receive doses, in rising order; 0: the record names none (the model's default).
    - `dosed_rows`: for each of them the number of the first such row of the original table, 0 where there is none (not
      compared: it does not decide the program).
    - `infused`: the compartments of `dosed` that receive infusions (RATE other than 0).
    - `rows_are_records`: every record, also of doses, is a row of x, so that parameters are known at each.
    - `carry`: "nocb" where the value of a parameter holds on the interval before its record (as in NONMEM), "locf"
      where it holds on the interval after.
    """

    time: str
    compartment: str | None = None
    infusions: bool = False
    modelled_rate: bool = False
    modelled_duration: bool = False
    steady_state: tuple[int, ...] = ()
    constant_infusion: bool = False
    segments: int = 0
    overlap: int = 0
    dosed: tuple[int, ...] = ()
    rows_are_records: bool = False
    carry: str = "nocb"
    dosed_rows: tuple[int, ...] = field(default=(), compare=False)
    infused: tuple[int, ...] = ()

    def infuses(self, compartment: int) -> bool:
        """True if an infusion enters a compartment; records that name none enter the first one."""
        return compartment in self.infused or (compartment == 1 and 0 in self.infused)

    def rows_in_words(self, compartment: int) -> str:
        """The first row with a dose into a compartment, as part of a sentence: " in row 3, the first one"."""
        row = dict(zip(self.dosed, self.dosed_rows, strict=False)).get(compartment, 0)
        return f" in row {row}, the first one" if row else ""
