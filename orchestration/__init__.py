"""When a step runs, on which partition, and whether its result is good. Loads no model library."""
