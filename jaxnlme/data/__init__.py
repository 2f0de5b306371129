"""Grouped data as padded arrays, and small published data sets."""

from jaxnlme.data import datasets as datasets
from jaxnlme.data.grouped import GroupedData as GroupedData
