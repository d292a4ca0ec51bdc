"""Secure aggregation: the server learns the sum of what the partners sent, and nothing else, even if it lies.

Both sides are functions from a state and bytes to a state and bytes, without I/O. `run.aggregate` is the whole
protocol in memory; `common/tacit/spec/secagg.md` its specification.
"""
