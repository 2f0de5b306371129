"""`to_polars`: tables of results as polars data frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.errors import OptionError, shown
from jaxnlme.signatures import public


@public("jn.to_polars")
def to_polars(table: Any) -> Any:
    """A table of results as a polars data frame, which has no row labels: a named index becomes the first columns.
    (`polars.from_pandas` drops the index, and needs pyarrow for text.)

    **Arguments:** `table`: a pandas data frame or Series, such as `fit.estimates` or `fit.diagnostics()`.
    **Returns:** a polars data frame; numbers keep their type, NaN included, text and categories become text with nulls.
    **Raises:** OptionError for what is no pandas table, and for columns with the same name; ImportError without polars.

    **Example:**

    ```python
    print(jn.to_polars(fit.estimates))
    ```
    """
    import pandas as pd

    try:
        import polars
    except ImportError:
        raise ImportError("jn.to_polars needs polars: pip install polars.") from None
    if isinstance(table, pd.Series):
        table = table.to_frame("value" if table.name is None else table.name)
    if not isinstance(table, pd.DataFrame):
        raise OptionError(f"jn.to_polars takes a pandas data frame or Series; received {shown(table)}.")
    if any(name is not None for name in table.index.names):
        table = table.reset_index()
    elif not (pd.api.types.is_integer_dtype(table.index.dtype) and table.index.nlevels == 1):
        table = table.rename_axis("row").reset_index()
    names = [str(name) for name in table.columns]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise OptionError(f"the table has several columns called {repeated[0]!r}; rename them first.")
    columns = {}
    for k, name in enumerate(names):
        column = table.iloc[:, k]
        if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iufb":
            columns[name] = polars.Series(name, column.to_numpy())
        else:
            cells = [None if missing else cell for cell, missing in zip(column.tolist(), column.isna(), strict=True)]
            columns[name] = polars.Series(name, cells, strict=False)
    return polars.DataFrame(columns)
