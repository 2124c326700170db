"""`ProductChoices`: matrix products, each by the library that is the fastest for its kind on this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from pvae.fit_options import MATMULS
from pvae.names import require_known
from pvae.products.cached_choices import add_choices, are_choices, read_choices
from pvae.products.kind_of_product import ProductKind, kind_of
from pvae.products.libraries import ATEN, PRODUCTS, Product
from pvae.products.machine_identity import machine_identity
from pvae.products.timing import fastest_library, fastest_way

__all__ = ["ProductChoices", "default_products"]

_LOG = logging.getLogger(__name__)
#: Products of fewer multiplications are computed by torch, even if they are repeated many times.
_FEWEST_REPEATED = 10**5


class ProductChoices:
    """Computes matrix products, each by the library that is the fastest for its kind on this machine.

    A kind is the shapes, the dtype, the memory layouts and the number of threads. The libraries are torch itself
    ("aten"), for float32 oneDNN, and the BLAS of NumPy, also in blocks. At the first product of a kind, they are timed
    for a few milliseconds. The choice is then kept in this object, and in a file of pvae's cache folder for later
    processes. torch is chosen unless another library takes less than 95 % of its time, and saves at least 5
    microseconds (one in compiled code, which calls it in less time). On other devices, for other dtypes and for small
    matrices, torch computes the product.

    The libraries add in different orders, so their results differ by rounding. Equal choices give equal bits.

    Args:
        matmul: ``"auto"`` for the fastest library, ``"aten"`` for torch only.
        recorded: the result of `record` in another process. Its choices are kept if they were made on a machine with
            the same processor and libraries.

    Attributes:
        foreign: a text on the difference between the machine of recorded choices and this one, so that they are made
            again; "" if the machines are the same.

    Raises:
        InputError: for another value of `matmul`.
    """

    def __init__(self, matmul: str = "auto", recorded: Mapping[str, Any] | None = None) -> None:
        require_known("matmul", matmul, MATMULS)
        self.matmul = matmul
        self.foreign = ""
        self._libraries: dict[str, str] = {}
        self._names_of_repeated: dict[Any, str] = {}  # for `product_of`, which is called in each step of EM
        self._machine: dict[str, str] | None = None
        self.keep(recorded or {})

    def keep(self, recorded: Mapping[str, Any]) -> None:
        """Keep the choices that were made in another process on a machine like this one.

        Args:
            recorded: the result of `record` there.
        """
        self._names_of_repeated.clear()
        choices = recorded.get("choices")
        if self.matmul == ATEN or not choices:
            return
        self.foreign = _describe_changes(recorded.get("machine"), self.machine)
        if not self.foreign and are_choices(choices):
            self._libraries.update(choices)
        elif not self.foreign:
            self.foreign = "other libraries than this version of pvae knows"

    @property
    def machine(self) -> dict[str, str]:
        """The processor, the versions of the libraries and the environment variables that the choices depend on."""
        if self._machine is None:
            self._machine = machine_identity()
        return self._machine

    def record(self) -> dict[str, Any]:
        """Return the choices that were used, and the machine on which they were made, as JSON values."""
        if not self._libraries:
            return {}
        return {"machine": dict(self.machine), "choices": dict(self._libraries)}

    def choose(self, kinds: Iterable[ProductKind]) -> dict[ProductKind, str]:
        """Return the name of the library for each kind of product: "aten", "onednn", "numpy" or "blocks".

        Args:
            kinds: the kinds; kinds without a choice are timed now.
        """
        kinds = dict.fromkeys(kinds)
        if self.matmul == ATEN:
            return dict.fromkeys(kinds, ATEN)
        new = [kind for kind in kinds if str(kind) not in self._libraries]
        if new:
            known = read_choices(self.machine)
            measured = {str(kind): fastest_library(kind) for kind in new if str(kind) not in known}
            if measured:
                known = add_choices(self.machine, measured)
            self._libraries.update({str(kind): known[str(kind)] for kind in new})
            for kind in map(str, new):
                source = "measured now" if kind in measured else "from the cache"
                _LOG.debug("product %s: %s, %s", kind, known[kind], source)
        return {kind: self._libraries[str(kind)] for kind in kinds}

    def choose_way(self, name: str, make_calls: Callable[[], Mapping[str, Callable[[], object]]]) -> str:
        """Return the name of the fastest of several ways to compute the same, which is measured once on a machine.

        Args:
            name: what is computed, with its sizes, dtype and number of threads; the choice is kept under it.
            make_calls: returns functions that compute it, by their names; the first wins ties. It is called only if
                there is no choice yet.
        """
        if name not in self._libraries:
            known = read_choices(self.machine)
            if name not in known:
                known = add_choices(self.machine, {name: fastest_way(make_calls())})
            self._libraries[name] = known[name]
        return self._libraries[name]

    def use_aten(self, kinds: Iterable[ProductKind]) -> None:
        """Choose torch for some kinds of products from now on; the file of choices does not change.

        Args:
            kinds: the kinds.
        """
        self._libraries.update(dict.fromkeys(map(str, kinds), ATEN))
        self._names_of_repeated.clear()

    def mm(self, a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the product of two matrices, like `torch.mm`; also with gradients.

        Args:
            a: shape (rows, inner).
            b: shape (inner, columns).
            out: a tensor of shape (rows, columns) for the result, or None.
        """
        return self._product(a, b, None, out)

    def product_of(self, a: Tensor, b: Tensor) -> Product:
        """Return the function that computes products of such matrices fastest, for a loop without gradients.

        `mm` looks up its function in each call, which takes about as long as a small product. A loop over matrices of
        equal shapes looks it up once, so that another library is useful for smaller products than in `mm`.

        Args:
            a: shape (rows, inner), or (batch, rows, inner) for a batched product.
            b: shape (inner, columns), or (batch, inner, columns).

        Returns:
            A function of a, b, a bias of shape (columns,) or None, and a tensor for the result or None. It is meant for
            matrices of the shapes, dtype and memory layouts of `a` and `b`.
        """
        if self.matmul == ATEN:
            return PRODUCTS[ATEN]
        key = (a.shape, a.stride(), b.shape, b.stride(), a.dtype, b.dtype, a.device, b.device, torch.get_num_threads())
        if key not in self._names_of_repeated:
            kind = kind_of(a, b, fewest=_FEWEST_REPEATED)
            self._names_of_repeated[key] = ATEN if kind is None else self.choose([kind])[kind]
        return PRODUCTS[self._names_of_repeated[key]]

    def addmm(self, bias: Tensor, a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        """Return bias + a @ b, like `torch.addmm`; also with gradients.

        Args:
            bias: shape (columns,), or another shape that broadcasts to (rows, columns), for which torch computes the
                product.
            a: shape (rows, inner).
            b: shape (inner, columns).
            out: a tensor of shape (rows, columns) for the result, or None.
        """
        return self._product(a, b, bias, out)

    def _product(self, a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
        library = self._library_for(a, b, bias, out)
        if library == ATEN:
            return PRODUCTS[ATEN](a, b, bias, out)
        needs_gradient = torch.is_grad_enabled() and any(
            tensor is not None and tensor.requires_grad for tensor in (a, b, bias)
        )
        if needs_gradient:
            product: Tensor = _DifferentiableProduct.apply(self, a, b)
            return product if bias is None else product + bias
        return PRODUCTS[library](a, b, bias, out)

    def _library_for(self, a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor | None) -> str:
        if self.matmul == ATEN or a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0]:
            return ATEN  # torch raises the error of shapes that do not fit
        if not all(map(_is_plain, (a, b, bias, out))) or _is_transformed():
            return ATEN
        if bias is not None and (bias.shape != b.shape[1:] or bias.dtype != a.dtype or bias.device != a.device):
            return ATEN
        if out is not None and (out.shape != (a.shape[0], b.shape[1]) or out.dtype != a.dtype or out.requires_grad):
            return ATEN
        kind = kind_of(a, b, has_bias=bias is not None)
        return ATEN if kind is None else self.choose([kind])[kind]


def _describe_changes(then: Any, now: Mapping[str, str]) -> str:
    """Return a text of the facts of a recorded machine that differ now; "" if there are none."""
    recorded = then if isinstance(then, Mapping) else {}
    return "; ".join(
        f"{name} {now[name] or 'none'} in place of {recorded.get(name) or 'none'}"
        for name in now
        if recorded.get(name) != now[name]
    )


def _is_plain(tensor: Tensor | None) -> bool:
    """Return whether a tensor is None or a usual dense tensor; a subclass may define other products."""
    if tensor is None:
        return True
    return type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided and not tensor.is_neg()


def _is_transformed() -> bool:
    """Return whether a transform of torch is active for torch's operations only, such as `torch.func.vmap`."""
    is_in_transform = torch._C._functorch.peek_interpreter_stack() is not None
    is_in_dispatch_mode = torch._C._len_torch_dispatch_stack() > 0
    return is_in_transform or is_in_dispatch_mode or forward_ad._current_level >= 0


class _DifferentiableProduct(torch.autograd.Function):
    """The product of two matrices; its gradients are products by the same choices."""

    @staticmethod
    def forward(ctx: Any, products: ProductChoices, a: Tensor, b: Tensor) -> Tensor:
        ctx.products = products
        ctx.save_for_backward(a, b)
        return products.mm(a, b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        a, b = ctx.saved_tensors
        products: ProductChoices = ctx.products
        of_a = products.mm(gradient, b.t()) if ctx.needs_input_grad[1] else None
        of_b = products.mm(a.t(), gradient) if ctx.needs_input_grad[2] else None
        return None, of_a, of_b


@cache
def default_products(matmul: str = "auto") -> ProductChoices:
    """Return the choices of this process that do not belong to a run. Each is made at first use.

    Args:
        matmul: ``"auto"`` for the fastest library, ``"aten"`` for torch only.

    Raises:
        InputError: for another value of `matmul`.
    """
    return ProductChoices(matmul)
