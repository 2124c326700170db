"""Matrix products by the fastest library for each shape: torch's own product, oneDNN or the BLAS of NumPy."""

from pvae.fit_options import MATMULS
from pvae.products.graph_pass import replace_products
from pvae.products.kind_of_product import ProductKind
from pvae.products.product_choices import ProductChoices, default_products

__all__ = ["MATMULS", "ProductChoices", "ProductKind", "default_products", "replace_products"]
