"""Our own reader of final answers: bounded in time and memory, evaluates numerically, and decides most comparisons.

`tokens` -> `expressions` (a tree) -> `values` (numbers at points); `answers` reads what kind of answer a text is and
`equality` compares two of them. What it cannot read is left to the symbolic library in a worker process.
"""
