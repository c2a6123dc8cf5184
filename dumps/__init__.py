"""Arrays that other programs left in files: found by clear rules, read a block of rows at a time,
and never by running code."""
