"""The fit of the results' tests."""

from tests.results.conftest import data as data
from tests.results.conftest import fit as fit
from tests.results.conftest import frame as frame
