"""The process that a runtime runs in: one for all files, and another one once it has died."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec

from atograph.passes.errors import UserError
from atograph.process.child_process import Child, ChildError
from atograph.values.user_code import one_line


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

    def check(self) -> None:
        """Make sure that there is its package, and that it loads.

        Raises:
            UserError: it is not installed, or something that it needs is not.
        """
        if find_spec(self.package) is None:
            raise UserError(
                f"{self.title} needs the package {self.package}, which is not installed.",
                hint=f"pip install {self.package}",
            )
        try:
            self.child().call("close", 0)  # no session has this number
        except ChildError as error:
            raise self.broken(one_line(error)) from error

    def broken(self, why: str) -> UserError:
        """What to say where its package is there and does not load."""
        return UserError(
            f"{self.title} needs the package {self.package}, which is installed and does not load: {why}.",
            hint=f"Install it with all that it needs: pip install --force-reinstall {self.package}",
        )

    @property
    def version(self) -> str:
        """Of its package."""
        return version(self.package)

    def let_go(self, child: Child, number: int) -> None:
        """Close a session before the next call, as the garbage collector may come in amid one."""
        self._let_go.append((child, number))
