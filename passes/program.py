"""The program that passes work on: a `torch.fx.GraphModule` with parameters as graph inputs, their values beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

import torch
from atograph.passes.errors import UserError
from atograph.passes.propagate import mode_of
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputKind, InputSpec, OutputSpec, TensorArgument

T = TypeVar("T")

_STATE_KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


class Program(fx.GraphModule):
    """A captured program: the graph of a `torch.export.ExportedProgram`, its state, and what analyses found out.

    Parameters, buffers and constants are placeholders of the graph; ``state`` maps their names in the user's model
    to tensors. ``facts`` holds one result per analysis, by type; a rewrite returns a program without facts.

    ``signature`` may list state that the program has dropped since capture; constants that a rewrite added stand in it.
    """

    source: ExportedProgram
    signature: ExportGraphSignature
    state: dict[str, torch.Tensor]
    facts: dict[type, Any]

    @classmethod
    def of(cls, exported: ExportedProgram) -> Program:
        """The program of an `ExportedProgram`, which is left as it is."""
        state = {**exported.state_dict, **exported.constants}
        return cls._build(exported, exported.graph_signature, exported.graph, state)

    @classmethod
    def _build(
        cls, source: ExportedProgram, signature: ExportGraphSignature, graph: fx.Graph, state: Mapping[str, Any]
    ) -> Program:
        copied, _nodes = copy_graph(graph)
        signature = _with_new_constants(signature, copied, state)
        used = _drop_unused_state(copied, signature)
        program = cls(source.graph_module, copied)
        program.source, program.signature, program.facts = source, signature, {}
        program.state = {
            name: value for name, value in state.items() if name in used and isinstance(value, torch.Tensor)
        }
        return program

    def rewritten(self, graph: fx.Graph, state: Mapping[str, torch.Tensor]) -> Program:
        """A new program with this one's signature, another graph and other tensors.

        A placeholder that the signature does not know is a new constant, if ``state`` has a value under its name.
        """
        return Program._build(self.source, self.signature, graph, state)

    def new_constant(self, graph: fx.Graph, value: torch.Tensor, name: str) -> fx.Node:
        """Add a placeholder for a constant to a graph that a rewrite is making of this program.

        Its name, ``name`` with a number, is new to the program and to the graph; the state that goes with the graph to
        `rewritten` has to hold ``value`` under it.
        """
        taken = {node.name for node in graph.nodes} | set(_state_of(self.signature).values())
        number = next(n for n in count() if f"{name}_{n}" not in taken)
        inputs = {node.name for node in self.input_nodes()}
        # torch.export wants all state before the user's inputs
        before = next((n for n in graph.nodes if n.op != "placeholder" or n.name in inputs), None)
        with graph.inserting_before(before):
            made = graph.placeholder(f"{name}_{number}")
        with mode_of(graph):
            made.meta["val"] = torch.empty(value.shape, dtype=value.dtype, device=value.device)
        return made

    def constants(self) -> dict[fx.Node, torch.Tensor]:
        """The placeholders of constants whose values are known: no parameter, no buffer, nothing on the meta device."""
        names = set(self.signature.lifted_tensor_constants)
        found = {node: self.state[name] for node, name in self.state_nodes() if name in names}
        return {n: t for n, t in found.items() if not t.is_meta and not isinstance(t, FakeTensor)}

    def state_names(self) -> dict[str, str]:
        """Placeholder name → name in the user's model, for parameters, buffers and constants still in the graph."""
        present = {node.name for node in self.graph.nodes if node.op == "placeholder"}
        return {name: target for name, target in _state_of(self.signature).items() if name in present}

    def parameter_names(self) -> set[str]:
        """Names (in the user's model) of the parameters, without buffers and constants."""
        listed = set(self.state_names().values())
        return {name for name in self.signature.parameters if name in listed}

    def state_nodes(self) -> Iterator[tuple[fx.Node, str]]:
        """Each state placeholder with its name in the user's model, in order."""
        names = self.state_names()
        for node in self.graph.nodes:
            if node.op == "placeholder" and node.name in names:
                yield node, names[node.name]

    def input_nodes(self) -> list[fx.Node]:
        """The placeholders of the user's own inputs."""
        names = self.state_names()
        return [n for n in self.graph.nodes if n.op == "placeholder" and n.name not in names]

    @property
    def output_node(self) -> fx.Node:
        """The node that returns."""
        last: fx.Node = next(iter(reversed(self.graph.nodes)))
        return last

    def fact(self, kind: type[T]) -> T:
        """The result of an analysis.

        Raises:
            UserError: the analysis has not run on this program.
        """
        if kind not in self.facts:
            name = getattr(kind, "made_by", kind.__name__)
            raise UserError(f"this needs the result of the pass '{name}', which has not run on the program.",
                            hint=f"Put '{name}' before it in the pipeline.")  # fmt: skip
        found: T = self.facts[kind]
        return found

    def _output_specs(self) -> list[OutputSpec]:
        """What is returned, by the names of the nodes that return it now: a rewrite may have put others there."""
        results = self.output_node.args[0]
        assert isinstance(results, (tuple, list))
        return [
            replace(spec, arg=replace(spec.arg, name=result.name)) if isinstance(result, fx.Node) else spec
            for spec, result in zip(self.signature.output_specs, results, strict=True)
        ]

    def _added_constants(self, names: set[str]) -> dict[str, torch.Tensor]:
        """Constants that no capture knows, on a device where the weights are: these may have moved since."""
        added = {name: self.state[name] for name in self.signature.lifted_tensor_constants if name in names}
        devices = [self.state[name].device for name in self.parameter_names() if not self.state[name].is_meta]
        return {n: t if not devices or t.device in devices else t.to(devices[0]) for n, t in added.items()}

    def exported(self) -> ExportedProgram:
        """The program as a `torch.export.ExportedProgram`: runs, saves, and exports like any other."""
        graph, _nodes = copy_graph(self.graph)
        names = self.state_names()
        specs = [s for s in self.signature.input_specs if s.kind not in _STATE_KINDS or s.arg.name in names]
        signature = ExportGraphSignature(input_specs=specs, output_specs=self._output_specs())
        kept = set(names.values())
        constants = {name: self.state.get(name, value) for name, value in self.source.constants.items()}
        constants |= self._added_constants(kept - constants.keys())
        return ExportedProgram(
            root=fx.GraphModule(self.source.graph_module, graph),
            graph=graph,
            graph_signature=signature,
            state_dict={name: value for name, value in self.state.items() if name not in constants},
            range_constraints=self.source.range_constraints,
            module_call_graph=self.source.module_call_graph,
            example_inputs=self.source.example_inputs,
            constants={
                name: value for name, value in constants.items() if name in kept or not isinstance(value, torch.Tensor)
            },
            verifiers=self.source.verifiers,
        )


def _state_of(signature: ExportGraphSignature) -> dict[str, str]:
    """Placeholder name → name in the user's model, for parameters, buffers and constants."""
    return {spec.arg.name: str(spec.target) for spec in signature.input_specs if spec.kind in _STATE_KINDS}


def _with_new_constants(
    signature: ExportGraphSignature, graph: fx.Graph, state: Mapping[str, Any]
) -> ExportGraphSignature:
    """The signature with the constants that a rewrite has put into the graph, behind the state that it lists."""
    specs = list(signature.input_specs)
    known = {spec.arg.name for spec in specs}
    names = [node.name for node in graph.nodes if node.op == "placeholder" and node.name not in known]
    added = [InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(n), n) for n in names if n in state]
    if not added:
        return signature
    at = next((i for i in reversed(range(len(specs))) if specs[i].kind in _STATE_KINDS), -1) + 1
    return ExportGraphSignature(input_specs=[*specs[:at], *added, *specs[at:]], output_specs=signature.output_specs)


def _drop_unused_state(graph: fx.Graph, signature: ExportGraphSignature) -> set[str]:
    """Remove the placeholders of parameters and buffers that no node reads (an auxiliary head in eval mode).

    Returns the names, in the user's model, of those that stay.
    """
    names, used = _state_of(signature), set()
    for node in list(graph.nodes):
        if node.op == "placeholder" and node.name in names:
            if node.users:
                used.add(names[node.name])
            else:
                graph.erase_node(node)
    return used


def copy_graph(graph: fx.Graph) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A copy of a graph that shares no node with it, and the map from old nodes to new ones."""
    copied = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        nodes[node] = copy_node(copied, node, nodes)
    return copied, nodes


def copy_node(graph: fx.Graph, node: fx.Node, nodes: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """A copy of a node in another graph; ``nodes`` maps the nodes that it reads."""
    copied = graph.node_copy(node, lambda old: nodes[old])
    if node.op == "placeholder":  # fx would rename one that is called like a Python builtin; the signature knows it
        copied.name = node.name
    return copied
