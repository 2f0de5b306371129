"""What was observed: grouped tables as padded arrays, and small published tables to try them on."""

from jaxnlme.data import datasets as datasets
from jaxnlme.data.grouped import GroupedData as GroupedData
