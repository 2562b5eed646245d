"""One module a row: `KEY`, `TITLE`, `measure(bench)` which gives figures (figures.py).

`bench` has `directory`, `quick`, `rounds(many, few)`, `peers` (names that may be compared with), and `say`."""
