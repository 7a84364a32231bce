"""The nine tasks of GLUE: their data and metrics, fine-tuning, and the records of what came out."""
