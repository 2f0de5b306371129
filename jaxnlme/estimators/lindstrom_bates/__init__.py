"""LME and RELME: the alternation of Lindstrom and Bates."""
