"""How a zero at one index passes through an op: the part of an op's rule that the zero-invariance proof reads.

Every rule describes its op as one of five flows. An `Operand` says which dimension of an input lands on which dimension
of the output; the proof (`zero.py`) follows these links one axis at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import fx

from atograph.passes.axes.dims import Dim
from atograph.passes.public import public


@dataclass(frozen=True)
class Link:
    """Dimension ``source`` of an input lands on dimension ``target`` of output ``output``.

    ``via`` limits the link to some axes of the dimension (the group axis of a grouped convolution); None means all.
    """

    source: int
    target: int
    via: Dim | None = None
    output: int = 0


@dataclass(frozen=True)
class Operand:
    """One tensor input of an op, with its links to the output."""

    node: fx.Node
    links: tuple[Link, ...]


@public("atograph.passes")
@dataclass(frozen=True)
class Contraction:
    """A sum over ``over``: it stands in dimension ``dim`` of each listed node, whose product is summed.

    Removing a unit is exact if one of the nodes is zero there; with ``any_constant``, if the one node holds a constant
    there: the rule's rewrite puts in what the removed units were (`rules.table.Lowering.constants`).
    """

    sites: tuple[tuple[fx.Node, int], ...]
    over: Dim
    any_constant: bool = False


@public("atograph.passes")
@dataclass(frozen=True)
class Affine:
    """A sum of products of operands, some dims contracted: convolution, linear, matmul, normalisation, embedding.

    The output is zero at an index if each product has a factor that is zero there. An empty product is a value
    that nobody knows.
    """

    products: tuple[tuple[Operand, ...], ...]
    contractions: tuple[Contraction, ...] = ()
    of_constant: Literal["unknown", "same", "zero"] = "unknown"
    """What the op makes of an operand that holds one number other than zero: a maximum keeps it, a variance is
    zero. A mean keeps it but for the last digit, which a difference would show."""
    divides_over: tuple[Dim, ...] = ()
    """Dims along which it divides by a length with nothing added to it: where all is zero along one of them, 0/0."""


@public("atograph.passes")
@dataclass(frozen=True)
class Keep:
    """Data movement and pooling: every output element is an input element, an average of some, or ``fill``.

    Along the dims ``filled``, parts of an output's dim, there is nothing but the fill.
    """

    operands: tuple[Operand, ...]
    fill: float | None = None
    filled: tuple[Dim, ...] = ()


@public("atograph.passes")
@dataclass(frozen=True)
class Map:
    """An elementwise function: the proof evaluates the op itself on constants.

    A zero of one of the ``absorbing`` inputs makes the output zero whatever the others are (multiplication), one of the
    ``dividing`` inputs makes it infinite or no number; where the op can be evaluated, that is seen anyway.
    """

    operands: tuple[Operand, ...]
    absorbing: tuple[fx.Node, ...] = ()
    dividing: tuple[fx.Node, ...] = ()


@public("atograph.passes")
@dataclass(frozen=True)
class Constant:
    """A tensor that holds one number everywhere."""

    value: float


@public("atograph.passes")
@dataclass(frozen=True)
class Unknown:
    """Nothing is known of the output, whatever the inputs are."""


Flow: TypeAlias = Affine | Keep | Map | Constant | Unknown


@public("atograph.passes")
@dataclass(frozen=True)
class Term:
    """One product of an op's algebra: scale a factor by s > 0 and the product is scaled by s.

    Attributes:
        factors: these, with where their dims land; none: a constant.
        of: other inputs, any function of which multiplies it.
    """

    factors: tuple[Operand, ...]
    of: tuple[fx.Node, ...] = ()


@public("atograph.passes")
@dataclass(frozen=True)
class Terms:
    """What an op computes of its inputs, as far as scales and sums go.

    Attributes:
        products: it is the sum of these.
        linear: where it is not (a maximum, a rectifier), it only scales with them, all at once.
    """

    products: tuple[Term, ...]
    linear: bool = True
