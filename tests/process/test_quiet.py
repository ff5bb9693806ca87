"""What other packages say is not heard where it does not matter."""

from __future__ import annotations

import logging

import pytest

from atograph.process.quiet import quiet


@pytest.mark.parametrize("named", [(), ("loud", "louder")])
def test_loggers_with_a_level_of_their_own_are_silent(named: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    one, other = logging.getLogger("loud"), logging.getLogger("louder.inside")
    one.setLevel(logging.DEBUG)
    with quiet(*named):
        one.warning("of no interest")
        other.warning("neither")
        other.error("this is")
    one.warning("and this")
    assert [record.message for record in caplog.records] == ["this is", "and this"]
    assert one.level == logging.DEBUG
    one.setLevel(logging.NOTSET)
