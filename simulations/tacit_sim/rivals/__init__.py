"""Others' secure aggregation, run by their own functions, to be measured and attacked beside ours."""
