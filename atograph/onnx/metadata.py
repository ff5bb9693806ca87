"""What an ONNX file says about itself (``metadata_props``): the plan that it comes from, and what that kept."""

from __future__ import annotations

from collections.abc import Mapping

from atograph.passes.plan.plan import Plan


def metadata(
    plan: Plan,
    *,
    flops: tuple[int, int],
    params: tuple[int, int],
    budgets: Mapping[str, float] | None = None,
    limits: str = "",
) -> dict[str, str]:
    """The entries, whose keys begin with ``atograph.``

    Args:
        plan: what was kept.
        flops: of the slim and of the dense model.
        params: the same.
        budgets: what was asked for, as shares; None: nobody knows.
        limits: of the dynamic sizes, in words; the file holds nobody to the conditions among them. Empty: there are
            none.
    """
    asked = {"atograph.budgets": ", ".join(f"{what}={share:g}" for what, share in (budgets or {}).items())}
    return {
        "atograph.plan": plan.digest,
        "atograph.model": plan.fingerprint,
        "atograph.flops": "{} of {}".format(*flops),
        "atograph.params": "{} of {}".format(*params),
        **(asked if budgets else {}),
        **({"atograph.limits": limits} if limits else {}),
    }
