"""The process that a runtime runs in: one for all files, and another one once it has died."""

from __future__ import annotations

from importlib.metadata import version

from atograph.process.child_process import Child


class RuntimeProcess:
    """A runtime in a process of its own.

    Attributes:
        title: what the runtime is called.
        package: what brings it.

    Args:
        module: runs in the process; has ``load``, ``close``, ``run`` and ``times_in_turns``, and ``kernel_times`` for
            budgets of latency (see `ort.worker`).
        title, package: as the attributes.
    """

    def __init__(self, module: str, title: str, package: str) -> None:
        self.title, self.package = title, package
        self._module = module
        self._child: Child | None = None
        self._let_go: list[tuple[Child, int]] = []

    def child(self) -> Child:
        """The process, started if need be, without the sessions that nobody uses any more."""
        if self._child is None or not self._child.alive:
            self._child = Child(self._module)
        while self._let_go:
            child, number = self._let_go.pop()
            if child is self._child:
                child.call("close", number)
        return self._child

    @property
    def version(self) -> str:
        """Of its package."""
        return version(self.package)

    def let_go(self, child: Child, number: int) -> None:
        """Close a session before the next call, as the garbage collector may come in amid one."""
        self._let_go.append((child, number))
