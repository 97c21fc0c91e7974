"""spark_helium: LLM calls as Spark operators that the optimizer sees.

``configure`` prepares a SparkSession, ``functions`` has the column functions, ``measure`` counts what a block
of queries used, ``explain`` reports what the optimizer made of a query. Importing this
package loads neither torch nor vllm.
"""

from spark_helium import functions
from spark_helium.errors import HeliumError
from spark_helium.measurement import Measurement, measure
from spark_helium.report import PrefilterRecall, Report, explain
from spark_helium.semantic import SampledJoin, semantic_join, semantic_top_k
from spark_helium.session import configure
from spark_helium.version import __version__

__all__ = [
    "HeliumError",
    "Measurement",
    "PrefilterRecall",
    "Report",
    "SampledJoin",
    "__version__",
    "configure",
    "explain",
    "functions",
    "measure",
    "semantic_join",
    "semantic_top_k",
]
