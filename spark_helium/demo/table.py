"""The table of the demo, shipped with the package."""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SCHEMA = "review_id INT, product STRING, category STRING, description STRING, stars INT, body STRING"


class Review(NamedTuple):
    """One row: a review beside the description of its product, which repeats with every review of it."""

    review_id: int
    product: str
    category: str
    description: str
    stars: int
    body: str


def load() -> list[Review]:
    """All rows, by ``review_id``."""
    data = json.loads(resources.files("spark_helium.demo").joinpath("reviews.json").read_text(encoding="utf-8"))
    products = {product["product"]: product for product in data["products"]}
    return [Review(**{**products[review["product"]], **review}) for review in data["reviews"]]


def reviews(spark: SparkSession) -> DataFrame:
    """The table as a DataFrame."""
    return spark.createDataFrame([tuple(row) for row in load()], SCHEMA)
