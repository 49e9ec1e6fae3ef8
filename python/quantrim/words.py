"""The words that settings are chosen from: one table for checks, and for the help and completion of the command line.

Nothing is imported here, so that help and completion wait for no kernels.
"""

FLOATS = ("float32", "float16", "bfloat16")
NARROW_FLOATS = ("float16", "bfloat16")  # that floats which stay may be narrowed to

ROUNDINGS = ("even", "away", "floor", "stochastic")
SCALE_RULES = ("absmax", "mse", "power_of_two")
SCALE_DTYPES = FLOATS
CODEBOOKS = ("nf4", "fp4", "mxfp4", "mxint8", "binary", "ternary")

NORMS = ("l1", "l2")  # scores of rows, columns and blocks alone
DATA_SCORES = ("wanda", "taylor", "fisher", "obd", "given")  # which need arrays beside the weights
SCORES = ("magnitude", "random", *NORMS, *DATA_SCORES)
SCOPES = ("tensor", "global")

STORAGES = ("auto", "dense", "sparse")
READERS = ("transformers", "vllm", "bitsandbytes", "any")
