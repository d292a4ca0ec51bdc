"""Tasks: how examples become tensors, and which networks are offered for them.

The table of all tasks is in `tacit.tasks.table`; it needs the networks, which need the records named here.
"""

from tacit.tasks.task import Encoded, Model, Options, Task, cross_entropy, encode_labels

__all__ = ["Encoded", "Model", "Options", "Task", "cross_entropy", "encode_labels"]
